"""Tests of the ladder of users and of the records that the scaling lab reads, with Locust as a program."""

from __future__ import annotations

import json
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs.locust_process import (
    LocustResult,
    locust_process,
    run_locust,
    running_service,
    wait_for_exit,
    worker_options,
)

QUICK = ("--wait-min", "0.05", "--wait-max", "0.1", "--record", "--exit-code-on-error", "0")
LADDER = ("--users", "5", "--spawn-rate", "5", "--step-users", "2", "--step-seconds", "1")


def last_seconds(ran: LocustResult) -> list[dict[str, Any]]:
    """Return the last record of each second, which replaces earlier ones."""
    return list({record["time"]: record for record in ran.records_of("second")}.values())


def check_totals(ran: LocustResult, stats: Path) -> None:
    """Assert that the seconds add up to the totals that Locust counted."""
    (total,) = json.loads(stats.read_text())
    seconds = last_seconds(ran)
    latency: Counter[str] = Counter()
    for second in seconds:
        latency.update(second["latency"])
    assert sum(second["requests"] for second in seconds) == total["num_requests"] == latency.total()
    assert sum(sum(second["failures"].values()) for second in seconds) == total["num_failures"]
    assert total["num_requests"] > 10


@pytest.mark.parametrize("count", [0, 2])
def test_users_climb_the_ladder_and_stop(count: int, tmp_path: Path) -> None:
    """Users rise in steps to the requested number, every step is recorded and held, and the test ends by itself."""
    stats = tmp_path / "stats.json"
    with running_service(faulty=True) as service:
        ran = run_locust(
            service.address, *QUICK, *LADDER, "--json-file", str(stats.with_suffix("")), *worker_options(count)
        )
    assert ran.status == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert [record["users"] for record in ran.records_of("step")] == [2, 4, 5]
    assert [record["users"] for record in ran.records_of("full")] == [2, 4, 5]
    starts, full = ran.records_of("step"), ran.records_of("full")
    assert all(start["time"] <= reached["time"] for start, reached in zip(starts, full, strict=True))
    assert all(start["time"] - reached["time"] >= 1 for reached, start in zip(full, starts[1:], strict=False))
    assert len(ran.records_of("stop")) == 1
    check_totals(ran, stats)
    assert any(second["failures"] == {"no prediction": second["requests"] // 2} for second in ran.records_of("second"))


@pytest.mark.parametrize("count", [0, 2])
def test_each_second_is_recorded_once_with_its_processes(count: int) -> None:
    """Each complete second of a test is recorded once, in order, with the CPU of every process."""
    with running_service() as service:
        options = ("--users", "4", "--spawn-rate", "4", "--run-time", "5s")
        ran = run_locust(service.address, *QUICK, *options, *worker_options(count))
    (full,), (stop,) = ran.records_of("full"), ran.records_of("stop")
    records = ran.records_of("second")
    seconds = [record for record in records if full["time"] + 1 < record["time"] < stop["time"] - 1]
    assert len(seconds) >= 2
    assert all(later["time"] - earlier["time"] == 1 for earlier, later in pairwise(seconds))
    for second in seconds:
        assert second["users"] == 4
        assert len(second["cpu"].keys() - {"master"}) == (count or 1)
        assert ("master" in second["cpu"]) is bool(count)
        assert all(0 <= share < 4 for share in second["cpu"].values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("count", [0, 2])
def test_interrupted_test_keeps_its_measurements(number: signal.Signals, count: int, tmp_path: Path) -> None:
    """After a signal to the parent, all processes end in order, every second is recorded, and all files are written."""
    results = ("--csv", str(tmp_path / "x"), "--html", str(tmp_path / "x.html"), "--json-file", str(tmp_path / "x"))
    options = ("--users", "4", "--spawn-rate", "4", "--step-users", "2", *QUICK, *results, *worker_options(count))
    lines: list[str] = []
    with running_service() as service, locust_process("--headless", "--host", service.address, *options) as process:
        assert process.stdout is not None
        while sum(json.loads(line)["kind"] == "second" for line in lines) < 3:
            lines.append(process.stdout.readline())
            assert lines[-1], wait_for_exit(process)
        process.send_signal(number)
        result = wait_for_exit(process)
    ran = LocustResult(result.status, "".join(lines) + result.stdout, result.stderr)
    assert ran.status == 0, ran.stderr
    assert len(ran.records_of("stop")) == 1
    check_totals(ran, tmp_path / "x.json")
    assert {"x.html", "x_stats.csv", "x_failures.csv"} <= {path.name for path in tmp_path.iterdir()}
