"""How far a benchmark is."""

from __future__ import annotations

import time

import pytest

from deploy.bench.plan import Plan
from deploy.bench.report import RowProgress
from tests.support.bench_results import a_row


def test_time_that_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is told with what the rest takes: its rows, and the start of each replica as long as those so far."""
    clock = iter([100.0, 120.0, 126.0, 140.0, 146.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = RowProgress(2, Plan.from_env({"CONNECTIONS": "64"}))
    for _ in range(4):
        progress.tell(a_row(workers=2))
    words = "constant, 2 workers, POST /predict from 64 connections: 5000 answers/s, P99 8.71 ms"
    assert capsys.readouterr().err.splitlines() == [
        "4 rows of 6 s: about 34 s",
        f"[1/4] {words}; about 32 s left",
        f"[2/4] {words}; about 26 s left",
        f"[3/4] {words}; about 6 s left",
        f"[4/4] {words}",
    ]
