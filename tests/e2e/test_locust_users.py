"""Locust's users and its workers, on the real stack."""

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

# Too few requests to keep anybody waiting for another's.
LOW = ("--users", "20", "--spawn-rate", "20", "--wait-min", "0.1", "--wait-max", "0.3", "--run-time", "8s", "--record")


def median(stack: Stack, client: str) -> float:
    """Milliseconds of all requests once all users run; none may fail."""
    ran = run_locust(stack.address, *LOW, "--client", client)
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
    """At a low load the light user and Locust's own see the service answer as quickly, but for what they cost."""
    with ThreadPoolExecutor(2) as pool:  # at the same time: what else the machine does, it does to both
        light, fast = pool.map(median, 2 * (stack,), ("light", "fast"))
    assert abs(light - fast) <= max(3, min(light, fast)), f"light {light} ms, fast {fast} ms"


def workers(stack: Stack) -> int:
    """How many Locust's page counts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.locust_port}/stats/requests", timeout=10) as answer:
        return len(json.load(answer).get("workers", []))


def test_workers_of_locust(stack: Stack) -> None:
    """Locust is given processes of its own, and they are taken away again, while the replicas go on."""
    before = stack.pids()
    stack.make_ok("up", "LOCUST_WORKERS=2")
    wait_until(lambda: workers(stack) >= 2, pause=0.5)
    stack.make_ok("up", "LOCUST_WORKERS=1")
    assert workers(stack) == 0
    after = stack.pids()
    assert {name: after[name] for name in after if name != "locust"} == (
        {name: before[name] for name in before if name != "locust"}
    )
