"""The ladder of users, and the lines that the scaling lab reads, of Locust as a program."""

from __future__ import annotations

import json
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs.locust_process import Ran, finished, locust, serving, started, workers

QUICK = ("--wait-min", "0.05", "--wait-max", "0.1", "--record", "--exit-code-on-error", "0")
LADDER = ("--users", "5", "--spawn-rate", "5", "--step-users", "2", "--step-seconds", "1")


def last_seconds(ran: Ran) -> list[dict[str, Any]]:
    """The last line of each second, which is the one that counts."""
    return list({record["time"]: record for record in ran.of("second")}.values())


def check_totals(ran: Ran, stats: Path) -> None:
    """All seconds together are what Locust itself counted."""
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
    """Users go up by steps to the number asked for, every step is told and held, and the test ends by itself."""
    stats = tmp_path / "stats.json"
    with serving(faulty=True) as service:
        ran = locust(service.address, *QUICK, *LADDER, "--json-file", str(stats.with_suffix("")), *workers(count))
    assert ran.status == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert [record["users"] for record in ran.of("step")] == [2, 4, 5]
    assert [record["users"] for record in ran.of("full")] == [2, 4, 5]
    begun, full = ran.of("step"), ran.of("full")
    assert all(one["time"] <= other["time"] for one, other in zip(begun, full, strict=True))
    assert all(two["time"] - one["time"] >= 1 for one, two in zip(full, begun[1:], strict=False))
    assert len(ran.of("stop")) == 1
    check_totals(ran, stats)
    assert any(second["failures"] == {"no prediction": second["requests"] // 2} for second in ran.of("second"))


@pytest.mark.parametrize("count", [0, 2])
def test_seconds_name_their_processes(count: int) -> None:
    """Each whole second of a test is told once, in order, with the CPU of every process that it ran in."""
    with serving() as service:
        options = ("--users", "4", "--spawn-rate", "4", "--run-time", "5s")
        ran = locust(service.address, *QUICK, *options, *workers(count))
    (full,), (stop,) = ran.of("full"), ran.of("stop")
    seconds = [one for one in ran.of("second") if full["time"] + 1 < one["time"] < stop["time"] - 1]
    assert len(seconds) >= 2
    assert all(two["time"] - one["time"] == 1 for one, two in pairwise(seconds))
    for second in seconds:
        assert second["users"] == 4
        assert len(second["cpu"].keys() - {"master"}) == (count or 1)
        assert ("master" in second["cpu"]) is bool(count)
        assert all(0 <= share < 4 for share in second["cpu"].values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("count", [0, 2])
def test_an_interrupted_test_keeps_what_it_measured(number: signal.Signals, count: int, tmp_path: Path) -> None:
    """A signal to the parent ends all its processes in order: every second is told, the tables and the page written."""
    results = ("--csv", str(tmp_path / "x"), "--html", str(tmp_path / "x.html"), "--json-file", str(tmp_path / "x"))
    options = ("--users", "4", "--spawn-rate", "4", "--step-users", "2", *QUICK, *results, *workers(count))
    lines: list[str] = []
    with serving() as service, started("--headless", "--host", service.address, *options) as process:
        assert process.stdout is not None
        while sum(json.loads(line)["kind"] == "second" for line in lines) < 3:
            lines.append(process.stdout.readline())
            assert lines[-1], finished(process)
        process.send_signal(number)
        ended = finished(process)
    ran = Ran(ended.status, "".join(lines) + ended.stdout, ended.stderr)
    assert ran.status == 0, ran.stderr
    assert len(ran.of("stop")) == 1
    check_totals(ran, tmp_path / "x.json")
    assert {"x.html", "x_stats.csv", "x_failures.csv"} <= {path.name for path in tmp_path.iterdir()}
