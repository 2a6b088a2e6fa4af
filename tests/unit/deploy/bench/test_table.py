"""What a benchmark shows and keeps: the table, the line above it and the document."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.bench.plan import Plan
from deploy.bench.report import Report, duration
from deploy.bench.table import table
from deploy.bench.wrk import Answers
from deploy.stack.machine import Machine
from tests.support.bench_results import NO_ERRORS, a_row, a_subject

FLOOR = a_row(request="GET /health", floor=None, server_cpu=0.4)
SPREAD = a_row(
    workers=2,
    answers=Answers(1000, 99.6, 0.123, 1234.5, {**NO_ERRORS, "read": 2, "status": 3}),
    answered={"bench/1": 600, "bench/2": 395},
    balance=1.206,
)


def test_table() -> None:
    """A line a row, every column as wide as its widest cell, with nothing where there is nothing to say."""
    assert table([FLOOR, a_row(), SPREAD]).splitlines() == [
        "| engine   | workers | request       | connections | answers/s | P50 ms |  P99 ms | server CPU us | x /health "
        "| Nginx CPU us | balance | PSS MB | errors |",
        "| -------- | ------: | ------------- | ----------: | --------: | -----: | ------: | ------------: | --------: "
        "| -----------: | ------: | -----: | -----: |",
        "| constant |       1 | GET /health   |          64 |      5000 |   4.33 |    8.71 |            40 |      1.00 "
        "|           25 |         |  286.5 |      0 |",
        "| constant |       1 | POST /predict |          64 |      5000 |   4.33 |    8.71 |           200 |      5.00 "
        "|           25 |         |  286.5 |      0 |",
        "| constant |       2 | POST /predict |          64 |       100 |   0.12 | 1234.50 |          2000 |     50.00 "
        "|          250 |    1.21 |  286.5 |      5 |",
    ]


def test_document(tmp_path: Path) -> None:
    """Every raw figure is kept under a name with its unit, those of each process too."""
    machine = Machine("a CPU", 2, "3.13.1", "abc1234")
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    report = Report(a_subject(tmp_path), machine, Plan.from_env({}), started, [FLOOR, SPREAD])
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


def test_words_of_a_machine() -> None:
    """Outside of Git there is no commit to tell, and one core is one core."""
    assert Machine("a CPU", 1, "3.13.1", None).words == "a CPU, 1 core; Python 3.13.1"
    assert Machine("a CPU", 2, "3.13.1", "abc").words == "a CPU, 2 cores; Python 3.13.1; commit abc"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (600, "10 min")])
def test_duration(seconds: float, words: str) -> None:
    """Short times are told in seconds, longer ones in minutes."""
    assert duration(seconds) == words
