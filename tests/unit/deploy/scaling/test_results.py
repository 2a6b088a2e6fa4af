"""Tests of folders of results."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.scaling.results import Results, Run
from deploy.scaling.step import FAIL, Step
from deploy.scaling.topology import Topology
from tests.support.lab_results import CONDITIONS, make_run, make_step

RUNS = [
    make_run("1x1/1G:1", make_step(500), make_step(1000, verdict=FAIL, reason="P95 1500 ms"), ended="missed twice"),
    make_run("2x0.5/512M:1", make_step(500), done=False),
    make_run("1x2:2", done=True, ended="no replica started"),
]


def test_results_folder_is_named_by_time_and_verb(tmp_path: Path) -> None:
    """A folder is named after the time and the verb, and can be loaded before the first measurement."""
    results = Results.new(tmp_path / "some" / "where", "max-users", CONDITIONS)
    assert results.folder.parent == tmp_path / "some" / "where"
    assert re.fullmatch(r"\d{8}-\d{6}-max-users", results.folder.name)
    assert Results.load(results.folder) == results
    assert not results.steps


def test_folder_names_never_collide(tmp_path: Path) -> None:
    """Results created within a second have different folders."""
    folders = {Results.new(tmp_path, "load", {"number": number}).folder for number in range(30)}
    assert len(folders) == 30
    assert sorted(Results.load(folder).conditions["number"] for folder in folders) == list(range(30))


def test_conditions_are_a_copy(tmp_path: Path) -> None:
    """A condition added to the results does not change the caller's mapping."""
    conditions: dict[str, Any] = {"verb": "load"}
    Results.new(tmp_path, "load", conditions).conditions["answer"] = "42"
    assert conditions == {"verb": "load"}


def test_results_survive_a_round_trip(tmp_path: Path) -> None:
    """Conditions, runs and steps are read as they were saved."""
    results = Results.new(tmp_path, "compare", CONDITIONS)
    results.runs = list(RUNS)
    results.save()
    loaded = Results.load(results.folder)
    assert loaded == results
    assert [len(run.steps) for run in loaded.runs] == [2, 1, 0]
    assert [step.users for step in loaded.steps] == [500, 1000, 500]
    assert not list(results.folder.glob("*.draft"))


def test_saving_again_replaces_the_results(tmp_path: Path) -> None:
    """Saving replaces earlier results, and loaded results can be continued."""
    results = Results.new(tmp_path, "compare", CONDITIONS)
    results.runs = [RUNS[1]]
    results.save()
    again = Results.load(results.folder)
    again.runs[0].steps.append(make_step(1000, topology="2x0.5/512M:1"))
    again.runs[0].done = True
    again.save()
    assert Results.load(results.folder) == again != results


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that accepts only the first few bytes of each file."""
    write = Path.write_text

    def cut_off(path: Path, text: str, *_: Any, **__: Any) -> int:
        write(path, text[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_row(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Writer:
        """A CSV writer that fails as a full disk does."""

        def __init__(self, file: TextIOWrapper, _names: list[str]) -> None:
            file.write("topo")

        writeheader = writerows = write_row

    monkeypatch.setattr("csv.DictWriter", Writer)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", cut_off)
        yield


def test_failed_save_keeps_the_previous_results(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A save that cannot be completed keeps the previous results."""
    results = Results.new(tmp_path, "compare", CONDITIONS)
    results.runs = [RUNS[0]]
    results.save()
    saved_files = {path.name: path.read_bytes() for path in results.folder.iterdir()}
    request.getfixturevalue("full_disk")
    results.runs = list(RUNS)
    with pytest.raises(OSError, match="No space left"):
        results.save()
    assert {path.name: path.read_bytes() for path in results.folder.iterdir() if path.suffix != ".draft"} == saved_files
    assert Results.load(results.folder).runs == [RUNS[0]]


def test_full_disk_between_two_files_keeps_both_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full after the first of two files, both files can still be read."""
    results = Results.new(tmp_path, "compare", CONDITIONS)
    results.runs = [RUNS[0]]
    results.save()

    def no_space(path: Path, _steps: list[Step]) -> None:
        path.write_text("topo")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deploy.scaling.results.write_steps", no_space)
    results.runs = list(RUNS)
    with pytest.raises(OSError, match="No space left"):
        results.save()
    assert [len(run.steps) for run in Results.load(results.folder).runs] == [2, 0, 0]


GOOD = {"conditions": {}, "runs": [{"topology": "1x1:1", "done": True, "ended": ""}]}
RUN = {"topology": "1x1:1", "done": True, "ended": ""}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"conditions": {}, "ru', "null", "[]", "3", '"text"', "{}", json.dumps({"conditions": {}}),
        json.dumps({**GOOD, "runs": None}), json.dumps({**GOOD, "runs": [None]}),
        json.dumps({**GOOD, "runs": [{"topology": "1x1:1"}]}), json.dumps({**GOOD, "runs": [{**RUN, "topology": 7}]}),
        json.dumps({**GOOD, "runs": [{**RUN, "topology": "many"}]}), json.dumps({"runs": []}),
        json.dumps({**GOOD, "conditions": None}), json.dumps({**GOOD, "conditions": []}), "\0\0\0\0",
    ],
)  # fmt: skip
def test_damaged_description_is_refused_with_its_folder(tmp_path: Path, text: str) -> None:
    """A damaged description is refused with one line that starts with the folder."""
    results = Results.new(tmp_path, "compare", {})
    (results.folder / "lab.json").write_text(text)
    with pytest.raises(CommandError, match="holds no results of the scaling lab") as caught:
        Results.load(results.folder)
    assert str(caught.value).startswith(str(results.folder))


def test_binary_description_is_refused(tmp_path: Path) -> None:
    """A description that is not text is refused."""
    results = Results.new(tmp_path, "compare", {})
    (results.folder / "lab.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="holds no results of the scaling lab"):
        Results.load(results.folder)


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    """A folder that is missing or has no results is refused."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CommandError, match="holds no results of the scaling lab"):
            Results.load(folder)


def test_run_folder_is_created_once(tmp_path: Path) -> None:
    """Each run has one folder for Locust's files, which is created on first use."""
    results = Results.new(tmp_path, "compare", {})
    topologies = [Topology.parse(text) for text in ("1x1/1G:1", "1x1/1G:2", "1x1:1")]
    folders = [results.run_folder(topology) for topology in topologies]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() and folder.parent == results.folder / "runs" for folder in folders)
    (folders[0] / "locust.log").write_text("kept")
    assert results.run_folder(topologies[0]) == folders[0]
    assert (folders[0] / "locust.log").read_text() == "kept"


def test_step_without_a_run_is_not_counted(tmp_path: Path) -> None:
    """A step of a topology without a run is not counted to another run."""
    results = Results.new(tmp_path, "compare", {})
    results.runs = [Run(Topology.parse("1x1:1"), [make_step(500, topology="1x1:1"), make_step(500, topology="9x9:9")])]
    results.save()
    assert [step.topology for step in Results.load(results.folder).steps] == ["1x1:1"]
