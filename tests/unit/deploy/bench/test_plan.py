"""What is measured, as the variables say it."""

from __future__ import annotations

import resource

import pytest

from deploy.bench.plan import Plan
from deploy.errors import CommandError
from deploy.options import BenchOptions
from deploy.stack.paths import ROOT

Limits = tuple[int, int]


def test_empty_variables_give_the_full_plan() -> None:
    """All of it: 1, 2 and 4 workers from 1, 64 and 512 connections, six seconds a row; an empty value is none."""
    plan = Plan.of(BenchOptions.read({"QUICK": "", "WORKERS": "", "CONNECTIONS": "", "BENCH_SECONDS": ""}))
    assert plan == Plan(quick=False, workers=(1, 2, 4), connections=(1, 64, 512), seconds=6, warm_up=1.0)
    assert plan.rows_a_replica == 4
    assert Plan.of(BenchOptions.read({"QUICK": "0"})) == plan


def test_quick_plan_fits_in_a_minute() -> None:
    """A quick run is one worker and fits in a minute."""
    plan = Plan.of(BenchOptions.read({"QUICK": "1"}))
    assert plan == Plan(quick=True, workers=(1,), connections=(1, 64, 512), seconds=5, warm_up=0.5)
    assert plan.rows_a_replica * plan.seconds + plan.warm_up < 40


def test_variables_override_the_quick_plan() -> None:
    """What is named counts, in a quick run too, in its order and each number once."""
    environ = {"QUICK": "1", "WORKERS": " 8 2  8", "CONNECTIONS": "256", "BENCH_SECONDS": "1"}
    plan = Plan.of(BenchOptions.read(environ))
    assert (plan.workers, plan.connections, plan.seconds) == ((8, 2), (256,), 1)
    assert plan.data is None
    assert Plan.of(BenchOptions.read({"DATA": "rows.csv"})).data == ROOT / "rows.csv"


@pytest.mark.parametrize("value", ["x", "0", "65", "1,2", "1 -2", "1.5", " ", "٣", "9" * 5000])
def test_invalid_list_is_named_with_expectation(value: str) -> None:
    """A list with anything but whole numbers in their range is refused with its name, its value and what was meant."""
    with pytest.raises(CommandError) as caught:
        Plan.of(BenchOptions.read({"WORKERS": value}))
    assert str(caught.value) == f"WORKERS={value!r}: expected whole numbers from 1 to 64 with spaces between them"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CONNECTIONS", "64 10001", "whole numbers from 1 to 10000 with spaces between them"),
        ("BENCH_SECONDS", "0", "a whole number from 1 to 3600"),
        ("QUICK", "2", "0 or 1"),
    ],
)
def test_value_out_of_range_is_refused(name: str, value: str, expected: str) -> None:
    """So is any other value out of its range."""
    with pytest.raises(CommandError) as caught:
        Plan.of(BenchOptions.read({name: value}))
    assert str(caught.value) == f"{name}={value!r}: expected {expected}"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1024, 4096), (2304, 4096)),
        ((1024, resource.RLIM_INFINITY), (2304, resource.RLIM_INFINITY)),
        ((4096, 4096), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_open_file_limit_is_raised_only_as_needed(
    limits: Limits, expected: Limits | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of open files is raised as far as the connections need it, and no further."""
    found: list[Limits] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, wanted: found.append(wanted))
    Plan.of(BenchOptions.read({})).allow_files()
    assert found == ([] if expected is None else [expected])


def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine does not allow as many, that is said before anything is started."""
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1024, 2000))
    with pytest.raises(CommandError, match="512 connections take 2304 open files, and this machine allows 2000"):
        Plan.of(BenchOptions.read({})).allow_files()
