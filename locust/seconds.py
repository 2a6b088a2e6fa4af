"""Requests counted by the second in which they ended, in one process and over many."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

# Plain types, which Locust's messages can carry: {"requests": 2, "failures": {"timeout": 1}, "latency": {1.2: 1, ..},
# "cpu": {"host/pid": 0.4}}.
Second = dict[str, Any]

# How long a second waits for a worker that does not report.
_PATIENCE = 10


def rounded(milliseconds: float) -> float:
    """To 0.1 ms below 10 ms, 1 ms below a second, 10 ms above: some 1,000 values at most up to 10 s."""
    if milliseconds < 10:
        return round(milliseconds, 1)
    return round(milliseconds) if milliseconds < 1000 else round(milliseconds / 10) * 10


class Meter:
    """What one process did since it was last asked."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seconds: dict[int, Second] = {}
        self._since = time.time()
        self._cpu = time.process_time()

    def count(self, response_time: float, exception: object = None, **_kwargs: object) -> None:
        """Add a request that ended now; Locust calls this for each."""
        second = self._second(int(time.time()))
        second["requests"] += 1
        latency, key = second["latency"], rounded(response_time)
        latency[key] = latency.get(key, 0) + 1
        if exception is not None:
            failures, name = second["failures"], str(exception)
            failures[name] = failures.get(name, 0) + 1

    def take(self) -> dict[str, Any]:
        """The seconds since the last time, with the share of a CPU, and until when they are complete."""
        now, cpu = time.time(), time.process_time()
        share = round((cpu - self._cpu) / max(now - self._since, 1e-9), 3)
        for number in range(int(self._since), int(now)):
            self._second(number)["cpu"] = {self._name: share}
        taken, self._seconds = self._seconds, {}
        self._since, self._cpu = now, cpu
        return {"until": int(now), "seconds": taken}

    def _second(self, number: int) -> Second:
        if number not in self._seconds:
            self._seconds[number] = {"requests": 0, "failures": {}, "latency": {}, "cpu": {}}
        return self._seconds[number]


class Book:
    """The seconds of all processes. It keeps them, as a worker that was held up may report late."""

    def __init__(self) -> None:
        self._seconds: dict[int, Second] = {}
        self._untold: set[int] = set()
        self._until: dict[str, int] = {}

    def add(self, source: str, report: dict[str, Any]) -> None:
        """What :meth:`Meter.take` gave in one process."""
        self._until[source] = report["until"]
        self._untold.update(report["seconds"])
        for number, second in report["seconds"].items():
            _add(self._seconds.setdefault(number, {}), second)

    def take(self, sources: Iterable[str]) -> list[tuple[int, Second]]:
        """The seconds that all of these processes have reported, in order, and those waited for long enough.

        One that changed after it was taken is taken again, whole.
        """
        reported = min((self._until.get(source, 0) for source in sources), default=0)
        return self.take_before(max(reported, int(time.time()) - _PATIENCE))

    def take_before(self, limit: float) -> list[tuple[int, Second]]:
        """Those before a second, reported by all or not."""
        due = sorted(number for number in self._untold if number < limit)
        self._untold.difference_update(due)
        return [(number, self._seconds[number]) for number in due]


def _add(total: Second, part: Second) -> None:
    """Numbers add up, by name."""
    total["requests"] = total.get("requests", 0) + part["requests"]
    for name in ("failures", "latency", "cpu"):
        counts = total.setdefault(name, {})
        for key, value in part[name].items():
            counts[key] = counts.get(key, 0) + value
