"""Tests of steps as lines of a CSV file."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import CommandError
from deploy.scaling.results import Results, Run
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step, read_steps, write_steps
from deploy.scaling.topology import Topology
from tests.support.lab_results import make_step

BARE = Step(
    topology="1x1:1", users=10, seconds=2, requests=12, failures=0, rps=6, locust_mean=1.5, locust_p50=1, locust_p95=2,
    locust_p99=3, nginx_requests=12, nginx_p50=1, nginx_p95=2, nginx_p99=3,
)  # fmt: skip

numbers = st.floats(0, 1e12, allow_nan=False)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
steps = st.builds(
    Step,
    topology=texts,
    failure_kinds=texts,
    reason=texts,
    verdict=st.sampled_from([PASS, FAIL, GENERATOR_BOUND]),
    users=st.integers(1, 10**6),
    requests=st.integers(10**6, 10**9),
    failures=st.integers(0, 10**6),
    nginx_requests=st.integers(0, 10**9),
    memory=st.none() | st.integers(0, 1 << 50),
    **{column.name: numbers for column in fields(Step) if column.type == "float"},
    **{column.name: st.none() | numbers for column in fields(Step) if column.type == "float | None"},
)


@given(written=st.lists(steps, max_size=5))
def test_steps_survive_a_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, written: list[Step]) -> None:
    """Steps are read exactly as they were written, whatever their texts and unknown values."""
    path = tmp_path_factory.mktemp("steps") / "steps.csv"
    write_steps(path, written)
    assert read_steps(path) == written


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 0}, {"users": -20}, {"failures": 13}, {"failures": -1}, {"rps": nan}, {"locust_p95": inf},
        {"nginx_p95": -1.0}, {"seconds": -2.0},
    ],
)  # fmt: skip
def test_impossible_figures_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    """A file with impossible figures is refused, so that no report is based on it."""
    path = tmp_path / "steps.csv"
    write_steps(path, [replace(BARE, **wrong)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot have been measured"):
        read_steps(path)


def test_unknown_value_is_an_empty_field(tmp_path: Path) -> None:
    """An unknown value is an empty field, which is read as None."""
    path = tmp_path / "steps.csv"
    write_steps(path, [BARE])
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == [column.name for column in fields(Step)]
    assert (row["memory"], row["null_p95"], row["reason"], row["verdict"]) == ("", "", "", "pass")
    assert read_steps(path) == [BARE]


@pytest.mark.parametrize(
    ("requests", "failures", "percent"), [(200, 0, 0), (200, 2, 1), (200, 200, 100), (0, 0, 100), (3, 1, 100 / 3)]
)
def test_failure_percent_of_no_requests_is_100(requests: int, failures: int, percent: float) -> None:
    """Failures are a percentage of requests, and 100 % if there were none."""
    assert replace(BARE, requests=requests, failures=failures).failure_percent == pytest.approx(percent)


def damaged(folder: Path, content: bytes) -> Path:
    """Write results with two steps and replace their file of steps."""
    results = Results.new(folder, "compare", {})
    results.runs.append(Run(Topology(1, 1, 1.0), [make_step(500), make_step(1000)], True))
    results.save()
    (results.folder / "steps.csv").write_bytes(content)
    return results.folder


HEAD = ",".join(column.name for column in fields(Step))


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        f"{HEAD}\n1x1:1,abc\n".encode(),
        f"{HEAD}\n1x1:1,{'x,' * 30}\n".encode(),
        f"{HEAD}\n1x1:1\n".encode(),
        HEAD.replace("users,", "").encode() + b"\n1x1:1,3\n",
        b"\x89PNG\r\n\x1a\n" * 100,
        b"{}",
        b"a\n" + b"x" * 200_000 + b"\n",
    ],
    ids=["other", "short", "words", "shorter", "field", "binary", "json", "long"],
)
def test_unrelated_steps_file_error_names_its_folder(tmp_path: Path, content: bytes) -> None:
    """A file of steps with unrelated content is refused with the name of its folder."""
    folder = damaged(tmp_path, content)
    if b"\n" not in content:
        assert not Results.load(folder).steps
        return
    with pytest.raises(CommandError, match="holds no results of the scaling lab") as caught:
        Results.load(folder)
    assert str(caught.value).startswith(str(folder))


def test_cut_off_file_is_refused(tmp_path: Path) -> None:
    """A file whose last line is cut off is refused, not read as fewer measurements."""
    path = damaged(tmp_path, b"") / "steps.csv"
    write_steps(path, [make_step(500), make_step(1000)])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(CommandError, match="holds no results of the scaling lab"):
        Results.load(path.parent)


def test_missing_steps_file_is_refused(tmp_path: Path) -> None:
    """A folder without a file of steps is refused."""
    folder = damaged(tmp_path, b"")
    (folder / "steps.csv").unlink()
    with pytest.raises(CommandError, match="holds no results of the scaling lab"):
        Results.load(folder)
