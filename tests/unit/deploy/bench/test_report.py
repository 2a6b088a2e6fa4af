"""Tests of the lines that a benchmark prints while it runs, and of the document that it saves."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.bench.plan import Plan
from deploy.bench.report import Report, RowProgress, format_duration
from deploy.bench.wrk import Answers
from deploy.options import BenchOptions
from deploy.stack.machine import Machine
from tests.support.bench_results import NO_ERRORS, make_row, make_subject

FLOOR = make_row(request="GET /health", floor=None, server_cpu=0.4)
SPREAD = make_row(
    workers=2,
    answers=Answers(1000, 99.6, 0.123, 1234.5, {**NO_ERRORS, "read": 2, "status": 3}),
    answered={"bench/1": 600, "bench/2": 395},
    balance=1.206,
)


def test_report_names_every_figure_with_its_unit(tmp_path: Path) -> None:
    """Every figure is saved under a name with its unit, and so are those of each process."""
    machine = Machine("a CPU", 2, "3.13.1", "abc1234")
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    report = Report(make_subject(tmp_path), machine, Plan.of(BenchOptions.read({})), started, [FLOOR, SPREAD])
    path = report.save(tmp_path / "results", None)
    assert path == tmp_path / "results/20260102-030405-bench/bench.json"
    document = json.loads(path.read_text())
    assert document["started"] == "2026-01-02T03:04:05+00:00"
    assert document["model"] == {
        "name": "made", "version": "7", "uri": "models:/made@champion", "digest": "d" * 64, "trained_on": None,
        "nodes": 1234,
    }  # fmt: skip
    assert document["machine"] == {"cpu": "a CPU", "cores": 2, "python": "3.13.1", "commit": "abc1234"}
    assert document["plan"]["workers"] == [1, 2, 4]
    assert document["plan"]["data"] is None
    row = document["rows"][1]
    assert (row["answers"], row["p99_ms"], row["server_cpu_us_per_answer"]) == (1000, 1234.5, 2000.0)
    assert row["processes"][1] == {"pid": 11, "is_master": False, "pss": 86_540_000, "uss": 18_000_000}
    assert row["answered_by_worker"] == {"bench/1": 600, "bench/2": 395}
    assert row["errors"]["status"] == 3


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (600, "10 min")])
def test_duration_uses_seconds_then_minutes(seconds: float, text: str) -> None:
    """Durations below 90 s are in seconds, longer ones in minutes."""
    assert format_duration(seconds) == text


def test_remaining_time_includes_rows_and_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time left is that of the remaining rows, plus the mean overhead of a replica for each remaining one."""
    clock = iter([100.0, 120.0, 126.0, 140.0, 146.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = RowProgress(2, Plan.of(BenchOptions.read({"CONNECTIONS": "64"})))
    for _ in range(4):
        progress.add(make_row(workers=2))
    row_text = "constant, 2 workers, POST /predict from 64 connections: 5000 answers/s, P99 8.71 ms"
    assert capsys.readouterr().err.splitlines() == [
        "4 rows of 6 s: about 34 s",
        f"[1/4] {row_text}; about 32 s left",
        f"[2/4] {row_text}; about 26 s left",
        f"[3/4] {row_text}; about 6 s left",
        f"[4/4] {row_text}",
    ]
