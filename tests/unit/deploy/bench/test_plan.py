"""Tests of the plan of a benchmark, read from variables."""

from __future__ import annotations

import resource

import pytest

from deploy.bench.plan import Plan
from deploy.errors import CommandError
from deploy.options import BenchOptions
from deploy.stack.paths import ROOT

Limits = tuple[int, int]


def test_empty_variables_give_the_full_plan() -> None:
    """The default plan has 1, 2 and 4 workers, 1, 64 and 512 connections and 6 s per row; empty values do not count."""
    plan = Plan.of(BenchOptions.read({"QUICK": "", "WORKERS": "", "CONNECTIONS": "", "BENCH_SECONDS": ""}))
    assert plan == Plan(quick=False, workers=(1, 2, 4), connections=(1, 64, 512), seconds=6, warm_up=1.0)
    assert plan.rows_per_replica == 4
    assert Plan.of(BenchOptions.read({"QUICK": "0"})) == plan


def test_quick_plan_fits_in_a_minute() -> None:
    """The quick plan has one worker and fits in a minute."""
    plan = Plan.of(BenchOptions.read({"QUICK": "1"}))
    assert plan == Plan(quick=True, workers=(1,), connections=(1, 64, 512), seconds=5, warm_up=0.5)
    assert plan.rows_per_replica * plan.seconds + plan.warm_up < 40


def test_variables_override_the_quick_plan() -> None:
    """Variables override the quick plan; lists keep their order, and a repeated number counts once."""
    environ = {"QUICK": "1", "WORKERS": " 8 2  8", "CONNECTIONS": "256", "BENCH_SECONDS": "1"}
    plan = Plan.of(BenchOptions.read(environ))
    assert (plan.workers, plan.connections, plan.seconds) == ((8, 2), (256,), 1)
    assert plan.data is None
    assert Plan.of(BenchOptions.read({"DATA": "rows.csv"})).data == ROOT / "rows.csv"


@pytest.mark.parametrize("value", ["x", "0", "65", "1,2", "1 -2", "1.5", " ", "٣", "9" * 5000])
def test_invalid_list_is_named_with_expectation(value: str) -> None:
    """The error for an invalid list names the variable, its value and what was expected."""
    with pytest.raises(CommandError) as caught:
        Plan.of(BenchOptions.read({"WORKERS": value}))
    assert str(caught.value) == f"WORKERS={value!r}: expected whole numbers from 1 to 64 separated by spaces"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CONNECTIONS", "64 10001", "whole numbers from 1 to 10000 separated by spaces"),
        ("BENCH_SECONDS", "0", "a whole number from 1 to 3600"),
        ("QUICK", "2", "0 or 1"),
    ],
)
def test_value_out_of_range_is_refused(name: str, value: str, expected: str) -> None:
    """The error for a value out of range names the variable, its value and what was expected."""
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
    """The limit of open files is raised exactly as far as the connections need."""
    new_limits: list[Limits] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _resource: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _resource, value: new_limits.append(value))
    Plan.of(BenchOptions.read({})).raise_open_files_limit()
    assert new_limits == ([] if expected is None else [expected])


def test_hard_limit_below_need_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the hard limit of open files is too low, the error names the need and the limit."""
    monkeypatch.setattr(resource, "getrlimit", lambda _resource: (1024, 2000))
    with pytest.raises(CommandError, match="512 connections need 2304 open files, and the hard limit is 2000"):
        Plan.of(BenchOptions.read({})).raise_open_files_limit()
