"""One rung of the ladder, as measured and judged: a line of ``steps.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from pathlib import Path
from typing import Any

PASS, FAIL, GENERATOR_BOUND = "pass", "fail", "generator-bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Milliseconds, seconds, bytes and per cent, over the step's window: what is left of it after settling.

    ``locust_*`` is what the users saw and ``nginx_*`` what Nginx saw of the same requests; ``null_*`` what as many
    users saw of ``/null``, where that was measured. CPU and memory per cent are of the limit of the replica that is
    nearest to its own; ``cpus`` and ``memory`` are of all replicas together. ``locust_cpu_percent`` is of what the
    generator may use: of one CPU for its busiest process, or of its container's limit, whichever is nearer.
    ``failure_kinds`` is how many failed in which way, as ``timeout 12, status 503 4``.
    """

    topology: str
    users: int
    seconds: float
    requests: int
    failures: int
    rps: float
    locust_mean: float
    locust_p50: float
    locust_p95: float
    locust_p99: float
    nginx_requests: int
    nginx_p50: float
    nginx_p95: float
    nginx_p99: float
    null_p95: float | None = None
    null_rps: float | None = None
    cpus: float | None = None
    cpu_percent: float | None = None
    memory: int | None = None
    memory_percent: float | None = None
    nginx_cpus: float | None = None
    locust_cpus: float | None = None
    locust_cpu_percent: float | None = None
    failure_kinds: str = ""
    verdict: str = PASS
    reason: str = ""

    @property
    def failure_percent(self) -> float:
        """Of the requests; 100 where there was none at all."""
        return 100 * self.failures / self.requests if self.requests else 100.0

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Step:
        """From a line of the file.

        Raises:
            ValueError, KeyError: it is none of ours.
        """
        if None in row.values():
            raise ValueError("a line of it was cut off")
        step = cls(**{one.name: _READ[str(one.type)](row[one.name]) for one in fields(cls)})
        if not step.is_possible:
            raise ValueError(f"the step of {step.users} users on {step.topology} cannot have been measured")
        return step

    @property
    def is_possible(self) -> bool:
        """Whether its figures can be of this world."""
        figures = (self.seconds, self.rps, self.locust_p95, self.nginx_p95, self.requests, self.failures)
        return self.users > 0 and 0 <= self.failures <= self.requests and all(0 <= one < inf for one in figures)


def _maybe(kind: type) -> Any:
    return lambda text: kind(text) if text else None


_READ: Mapping[str, Any] = {
    "str": str, "int": int, "float": float, "int | None": _maybe(int), "float | None": _maybe(float),
}  # fmt: skip


def write_steps(path: Path, steps: Iterable[Step]) -> None:
    """All steps, a line each, under their names."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Step)])
        writer.writeheader()
        writer.writerows(asdict(step) for step in steps)


def read_steps(path: Path) -> list[Step]:
    """What :func:`write_steps` wrote."""
    with path.open(newline="") as file:
        return [Step.from_row(row) for row in csv.DictReader(file)]
