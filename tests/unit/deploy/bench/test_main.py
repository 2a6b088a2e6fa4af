"""`python -m deploy.bench`: which benchmark runs, and where."""

from __future__ import annotations

import sys

import pytest

from deploy.bench import __main__ as bench
from deploy.bench import command
from tests.support import macos


def test_bench_runs_the_benchmark_of_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the cost of one prediction is measured, and its status is the command's."""
    monkeypatch.setattr(command, "main", lambda: 130)
    assert bench.main([]) == 130


def test_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else than a known benchmark gets the usage, and status 2."""
    assert bench.main(["explode"]) == 2
    assert capsys.readouterr() == ("", "usage: python -m deploy.bench [engines]\n")


@pytest.mark.parametrize(("arguments", "verb"), [([], "bench"), (["engines"], "bench-engines")])
def test_benchmarks_need_linux(
    arguments: list[str], verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On macOS each benchmark is refused with one line, also where its packages are not installed."""
    macos.pretend(monkeypatch)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert bench.main(arguments) == 1
    assert capsys.readouterr() == ("", f"error: make {verb} needs Linux; see docs/platforms.md\n")
