"""CPU and memory over a window of time: read once a second in a thread, and summed up for each step."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

# The services whose figures a step wants: the replicas, the balancer, and whatever makes the load.
SERVER, NGINX, LOCUST = "server", "nginx", "locust"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one container, or one program's processes, used until ``time`` (Unix seconds).

    ``name`` tells it from any other, also from one that had its place before. ``cpu_seconds`` and ``throttled``, the
    seconds that its limit made it wait, count from its start; ``memory`` is in bytes; ``cpu_limit`` in CPUs.
    """

    name: str
    service: str
    time: float
    cpu_seconds: float
    memory: int
    cpu_limit: float | None = None
    memory_limit: int | None = None
    throttled: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used within a window; None where nothing was read. Per cent are of the limits.

    ``cpus``, ``memory`` (the sum of each one's most) and ``throttled`` (seconds) are of all replicas together;
    ``cpu_percent`` and ``memory_percent`` of the replica nearest to its limit.
    """

    cpus: float | None = None
    cpu_percent: float | None = None
    memory: int | None = None
    memory_percent: float | None = None
    throttled: float | None = None
    nginx_cpus: float | None = None
    locust_cpus: float | None = None
    locust_cpu_percent_of_limit: float | None = None

    @classmethod
    def of(cls, readings: Iterable[Reading], start: float, end: float) -> Usage:
        """What the readings say of the window between two times (Unix seconds)."""
        series: defaultdict[str, list[Reading]] = defaultdict(list)
        for reading in readings:
            series[reading.name].append(reading)
        parts: defaultdict[str, list[_Part]] = defaultdict(list)
        for one in series.values():
            if part := _Part.of(one, start, end):
                parts[one[0].service].append(part)
        server = parts[SERVER]
        return cls(
            cpus=_cpus(server),
            cpu_percent=_most(part.cpu_percent for part in server),
            memory=sum(part.memory for part in server) if server else None,
            memory_percent=_most(part.memory_percent for part in server),
            throttled=sum(part.throttled for part in server) if server else None,
            nginx_cpus=_cpus(parts[NGINX]),
            locust_cpus=_cpus(parts[LOCUST]),
            locust_cpu_percent_of_limit=_most(part.cpu_percent for part in parts[LOCUST]),
        )


@dataclass(frozen=True, slots=True)
class _Slice:
    """What one container used from one reading to the next, as far as the window goes."""

    since: float
    until: float
    cpu_seconds: float
    throttled: float

    @classmethod
    def of(cls, before: Reading, after: Reading, start: float, end: float) -> _Slice | None:
        """None outside the window, and where the container was started again: then it counts from zero."""
        since, until = max(before.time, start), min(after.time, end)
        if until <= since or after.cpu_seconds < before.cpu_seconds:
            return None
        share = (until - since) / (after.time - before.time)
        cpu, throttled = after.cpu_seconds - before.cpu_seconds, after.throttled - before.throttled
        return cls(since, until, share * cpu, share * throttled)


@dataclass(frozen=True, slots=True)
class _Part:
    """One container's part in a window: its slices, the most memory that it held, and its limits."""

    slices: Sequence[_Slice]
    memory: int
    cpu_limit: float | None
    memory_limit: int | None

    @classmethod
    def of(cls, readings: Sequence[Reading], start: float, end: float) -> _Part | None:
        """None where it was not there."""
        held = [one.memory for one in readings if start <= one.time <= end]
        # A window may be shorter than the time between two readings.
        held = held or [after.memory for before, after in pairwise(readings) if before.time < start < after.time]
        if not held:
            return None
        slices = (_Slice.of(before, after, start, end) for before, after in pairwise(readings))
        last = readings[-1]
        return cls([one for one in slices if one], max(held), last.cpu_limit, last.memory_limit)

    @property
    def cpu_seconds(self) -> float:
        return sum(one.cpu_seconds for one in self.slices)

    @property
    def throttled(self) -> float:
        return sum(one.throttled for one in self.slices)

    @property
    def cpu_percent(self) -> float | None:
        seconds = sum(one.until - one.since for one in self.slices)
        return 100 * self.cpu_seconds / seconds / self.cpu_limit if self.cpu_limit and seconds else None

    @property
    def memory_percent(self) -> float | None:
        return 100 * self.memory / self.memory_limit if self.memory_limit else None


def _cpus(parts: Sequence[_Part]) -> float | None:
    """Of all together; where one took another's place, they share the time."""
    slices = [one for part in parts for one in part.slices]
    if not slices:
        return None
    span = max(one.until for one in slices) - min(one.since for one in slices)
    return sum(one.cpu_seconds for one in slices) / span


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


class Sampler:
    """Calls ``read`` every so many seconds, in a thread, while its ``with`` lasts, and keeps all that was read."""

    def __init__(self, read: Callable[[], list[Reading]], seconds: float = 1.0) -> None:
        self._read = read
        self._seconds = seconds
        self._readings: list[Reading] = []
        self._fault = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def fault(self) -> str:
        """Why the last read failed, in a line; empty where it did not."""
        return self._fault

    def between(self, start: float, end: float) -> Usage:
        """What was used between two times (Unix seconds)."""
        return Usage.of(list(self._readings), start, end)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            self._sample()
            # A read that took longer leaves out those that it was in the way of.
            due = max(due + self._seconds, time.monotonic())
            self._ended.wait(due - time.monotonic())

    def _sample(self) -> None:
        try:
            self._readings += self._read()
        except Exception as error:  # whatever it is, the measurement goes on without this reading
            self._fault = f"{type(error).__name__}: {error}"
        else:
            self._fault = ""
