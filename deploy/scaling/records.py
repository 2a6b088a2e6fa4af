"""What the generator tells while it runs: a JSON document a line (locust/recorder.py writes them)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from deploy.scaling.latency import Latency

_SECOND = ("requests", "failures", "latency", "cpu")


@dataclass(slots=True)
class Window:
    """What the users saw in some seconds. ``cpu`` is the mean of each process, in CPUs."""

    seconds: int
    latency: Latency
    requests: int
    failures: Counter[str]
    cpu: dict[str, float]

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return self.failures.total()


@dataclass(slots=True)
class Records:
    """All that it told so far. Times are Unix seconds."""

    seconds: dict[int, dict[str, Any]] = field(default_factory=dict)
    steps: list[tuple[float, int]] = field(default_factory=list)
    full: dict[int, float] = field(default_factory=dict)
    stopped: float | None = None
    refusal: str = ""

    def take(self, line: bytes) -> None:
        """Keep one line; anything that is no record is none of ours."""
        try:
            self._keep(json.loads(line))
        except (ValueError, KeyError, TypeError):
            return

    def _keep(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "second":
            self.seconds[record["time"]] = {name: record[name] for name in _SECOND}
        elif kind == "step":
            self.steps.append((record["time"], record["users"]))
        elif kind == "full":
            self.full.setdefault(record["users"], record["time"])
        elif kind == "stop":
            self.stopped = record["time"]
        elif kind == "error":
            self.refusal = self.refusal or str(record["message"])

    @property
    def last(self) -> int:
        """The newest second that is known whole; 0 before the first."""
        return max(self.seconds, default=0)

    def between(self, start: float, end: float) -> Window:
        """Of the seconds that lie in this time as a whole."""
        chosen = [record for second, record in list(self.seconds.items()) if start <= second <= end - 1]
        failures: Counter[str] = Counter()
        cpu: Counter[str] = Counter()
        for record in chosen:
            failures.update(record["failures"])
            cpu.update(record["cpu"])
        latency = Latency.sum(
            Latency({float(ms): count for ms, count in record["latency"].items()}) for record in chosen
        )
        requests = sum(record["requests"] for record in chosen)
        whole = max(0, int(end) - int(-(-start // 1)))  # a second without an answer has no record
        return Window(
            whole, latency, requests, failures, {pid: used / max(1, len(chosen)) for pid, used in cpu.items()}
        )
