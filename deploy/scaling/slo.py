"""The service level objective, and what it says of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.errors import CommandError
from deploy.scaling.figures import number
from deploy.scaling.step import Step


@dataclass(frozen=True, slots=True)
class Slo:
    """Upper bounds that a step has to stay under: milliseconds, and per cent."""

    p95_ms: float = 1000.0
    failure_percent: float = 1.0
    cpu_percent: float = 90.0
    memory_percent: float = 90.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Slo:
        """Read SLO_P95_MS, SLO_FAILURES, SLO_CPU and SLO_MEMORY.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        default = cls()
        return cls(
            _bound(environ, "SLO_P95_MS", default.p95_ms, 3_600_000),
            _bound(environ, "SLO_FAILURES", default.failure_percent, 100),
            _bound(environ, "SLO_CPU", default.cpu_percent, 100),
            _bound(environ, "SLO_MEMORY", default.memory_percent, 100),
        )

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"P95 < {self.p95_ms:g} ms, failures < {self.failure_percent:g} %, "
            f"CPU < {self.cpu_percent:g} % and memory < {self.memory_percent:g} % of the limit"
        )

    def misses(self, step: Step) -> list[str]:
        """What the step does not hold, each with its figure; none where it holds the objective."""
        bounds = [
            ("failures", step.failure_percent, self.failure_percent, "%"),
            ("P95", step.locust_p95, self.p95_ms, "ms"),
            ("CPU", step.cpu_percent, self.cpu_percent, "%"),
            ("memory", step.memory_percent, self.memory_percent, "%"),
        ]
        return [
            f"{name} {number(value)} {unit}"
            for name, value, bound, unit in bounds
            if value is not None and value >= bound
        ]


def _bound(environ: Mapping[str, str], name: str, default: float, most: float) -> float:
    value = environ.get(name)
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not 0 < number <= most:
        raise CommandError(f"{name}={value!r}: expected a number above 0, at most {most:g}")
    return number
