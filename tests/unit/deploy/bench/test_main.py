"""Tests of the arguments of `python -m deploy.bench`, and of its error on macOS."""

from __future__ import annotations

import sys

import pytest

from deploy.bench import __main__ as bench
from deploy.bench import command
from tests.support import macos


def test_bench_without_arguments_measures_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments `make bench` runs, and its status is returned."""
    monkeypatch.setattr(command, "main", lambda: 130)
    assert bench.main([]) == 130


def test_unknown_benchmark_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown argument prints the usage, with status 2."""
    assert bench.main(["explode"]) == 2
    assert capsys.readouterr() == ("", "usage: python -m deploy.bench [engines]\n")


@pytest.mark.parametrize(("arguments", "verb"), [([], "bench"), (["engines"], "bench-engines")])
def test_benchmarks_need_linux(
    arguments: list[str], verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each benchmark on macOS is an error of one line, also if its packages are not installed."""
    macos.pretend(monkeypatch)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert bench.main(arguments) == 1
    assert capsys.readouterr() == ("", f"error: make {verb} needs Linux; see docs/platforms.md\n")
