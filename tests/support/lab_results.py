"""Made-up steps, runs and results, for tests of the scaling lab's answers and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.scaling.results import Results, Run
from deploy.scaling.slo import Slo
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from deploy.scaling.topology import Topology

MEAN_WAIT_SECONDS = 1.75
CONDITIONS: Mapping[str, Any] = {
    "verb": "compare", "machine": "a CPU, 4 cores", "commit": "abc1234", "backend": "docker",
    "model": {"name": "covertype", "version": "3", "engine": "forest"}, "user": "light", "slo": Slo().words,
    "ladder": "+500 users to 10,000, 30 s a step", "started": "2026-01-02T03:04:05+00:00",
    "options": {"USERS": "10000"}, "notes": ["Nothing else ran."],
}  # fmt: skip


def make_step(users: int = 1000, **fields: Any) -> Step:
    """Return a step that passed with plenty of spare capacity, with changed fields."""
    rps = users / MEAN_WAIT_SECONDS
    defaults: dict[str, Any] = {
        "topology": "1x1/1G:1", "users": users, "seconds": 20.0, "requests": int(rps * 20), "failures": 0, "rps": rps,
        "locust_mean": 5.0, "locust_p50": 4.0, "locust_p95": 12.0, "locust_p99": 20.0, "nginx_requests": int(rps * 20),
        "nginx_p50": 3.0, "nginx_p95": 11.0, "nginx_p99": 18.0, "null_p95": 2.0, "null_rps": rps,
        "cpus": 0.1 + rps / 4000, "cpu_percent": 10 + rps / 40, "memory": 180 << 20, "memory_percent": 18.0,
        "nginx_cpus": rps * 40e-6, "locust_cpus": rps * 180e-6, "locust_cpu_percent": rps * 180e-4,
    }  # fmt: skip
    return Step(**{**defaults, **fields})


def make_run(topology: str, *steps: Step, done: bool = True, ended: str = "") -> Run:
    """Return a run of a topology with these steps, whose own topologies are replaced."""
    parsed = Topology.parse(topology)
    return Run(parsed, [replace(step, topology=parsed.name) for step in steps], done, ended)


def make_ladder(topology: str, holds: int, then: str = FAIL, to: int = 10_000, rung: int = 500, **fields: Any) -> Run:
    """Return a run whose steps pass up to ``holds`` users; up to two more have the verdict ``then``."""
    rungs = range(rung, min(holds + 2 * rung, to) + 1, rung)
    reason = {FAIL: "P95 1500 ms", GENERATOR_BOUND: "Locust's CPU 97 %"}[then]
    steps = [
        make_step(users, **fields)
        if users <= holds
        else replace(make_step(users, **fields), verdict=then, reason=reason, locust_p95=1500.0)
        for users in rungs
    ]
    return make_run(topology, *steps, ended=f"two steps were no pass: {then}" if holds < to else "")


def make_results(folder: Path, *runs: Run, **conditions: Any) -> Results:
    """Return results with these runs."""
    return Results(folder, {**CONDITIONS, **conditions}, list(runs))


def make_queue_run(topology: str, rate: float, locust: float = 5200.0, to: int = 10_000) -> Run:
    """Simulate a closed loop with the maximum rates (requests/s) of the service and of Locust."""
    parsed = Topology.parse(topology)
    steps: list[Step] = []
    for users in range(500, to + 1, 500):
        steps.append(_queue_step(parsed, users, rate, locust))
        if [step.verdict for step in steps[-2:]] == [FAIL, FAIL]:
            break
    return make_run(topology, *steps, ended="two steps missed the SLO" if steps[-1].verdict == FAIL else "")


def make_demo_results(folder: Path) -> Results:
    """Return results of five topologies: two too small, one sufficient, and two limited by the generator."""
    sizes: Sequence[tuple[str, float]] = [
        ("1x0.5/512M:1", 1150), ("1x1/1G:1", 2400), ("2x0.5/512M:1", 2200), ("1x2/2G:2", 7000), ("4x0.5/512M:1", 4300),
    ]  # fmt: skip
    return make_results(folder, *(make_queue_run(name, rate) for name, rate in sizes))


def _queue_step(topology: Topology, users: int, rate: float, locust: float) -> Step:
    offered = users / MEAN_WAIT_SECONDS
    load = min(0.995, offered / rate)
    service = 3 + 4 / (1 - load) + max(0.0, 1000 * (users / rate - MEAN_WAIT_SECONDS))
    rps = min(offered, rate, locust)
    latency = max(service + 1, 1000 * (users / rps - MEAN_WAIT_SECONDS))
    late = offered > locust * 0.98 and rps > 0.97 * locust
    percent = min(100.0, 5 + 93 * rps / rate)
    p95 = 1.6 * latency
    missed = [f"P95 {p95:.0f} ms"] * (p95 >= 1000) + [f"CPU {percent:.1f} %"] * (percent >= 90)
    verdict = GENERATOR_BOUND if late else FAIL if missed else PASS
    return make_step(
        users, rps=rps, requests=int(rps * 20), nginx_requests=int(rps * 20), locust_mean=latency,
        locust_p50=0.9 * latency, locust_p95=p95, locust_p99=2 * latency,
        nginx_p50=0.9 * service, nginx_p95=1.6 * service, nginx_p99=2 * service,
        cpus=topology.total_cpus * percent / 100, cpu_percent=percent, memory=topology.replicas * (150 << 20),
        memory_percent=40.0, nginx_cpus=rps * 45e-6, locust_cpus=min(1.0, rps * 190e-6),
        locust_cpu_percent=min(100.0, rps * 190e-4), verdict=verdict,
        reason="Locust's CPU 97 %" if late else "; ".join(missed),
    )  # fmt: skip
