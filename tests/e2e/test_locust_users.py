"""End-to-end tests of Locust's users and worker processes."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.programs.locust_process import run_locust
from tests.support.stacks.local import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("stack")

# A rate at which requests do not wait for each other.
LOW_LOAD = (
    "--users",
    "20",
    "--spawn-rate",
    "20",
    "--wait-min",
    "0.1",
    "--wait-max",
    "0.3",
    "--run-time",
    "8s",
    "--record",
)


def median_latency(stack: Stack, client: str) -> float:
    """Return the median latency (ms) of a client's requests once all users run; none may fail."""
    ran = run_locust(stack.address, *LOW_LOAD, "--client", client)
    assert ran.status == 0, ran.stderr
    (full,) = ran.records_of("full")
    latency: Counter[float] = Counter()
    for second in ran.records_of("second"):
        assert second["failures"] == {}
        if second["time"] > full["time"] + 1:
            latency.update({float(key): count for key, count in second["latency"].items()})
    assert latency.total() > 200
    return sorted(latency.elements())[latency.total() // 2]


def test_both_users_see_the_same_latency(stack: Stack) -> None:
    """At a low load, the light user and Locust's FastHttpUser measure about the same latency."""
    with ThreadPoolExecutor(2) as pool:  # at the same time, so that other load of the machine affects both
        light, fast = pool.map(median_latency, 2 * (stack,), ("light", "fast"))
    assert abs(light - fast) <= max(3, min(light, fast)), f"light {light} ms, fast {fast} ms"


def workers(stack: Stack) -> int:
    """Return the number of workers that Locust's page reports."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.locust_port}/stats/requests", timeout=10) as answer:
        return len(json.load(answer).get("workers", []))


def test_locust_workers_start_and_stop_without_touching_replicas(stack: Stack) -> None:
    """LOCUST_WORKERS starts and stops Locust's worker processes, and the replicas are not restarted."""
    pids_before = stack.pids()
    stack.make_ok("up", "LOCUST_WORKERS=2")
    wait_until(lambda: workers(stack) >= 2, pause=0.5)
    stack.make_ok("up", "LOCUST_WORKERS=1")
    assert workers(stack) == 0
    pids_after = stack.pids()
    assert {name: pid for name, pid in pids_after.items() if name != "locust"} == (
        {name: pid for name, pid in pids_before.items() if name != "locust"}
    )
