"""What a worker counts, under the names that Prometheus knows it by: dashboards stand on them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector

PREDICT, INVOCATIONS, INFER = "/predict", "/invocations", "/v2/infer"
# What a request may be counted under: no path that a client makes up is a new series.
PREDICTIONS = (PREDICT, INVOCATIONS, INFER)
OTHER = "other"
ROUTES = (*PREDICTIONS, "/health", "/ready", OTHER)
REASONS = ("full", "draining")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A row may take 20 us, and wait as long.
_SHORT = (0.00005, 0.0001, 0.00025, *_SECONDS)
_ROWS = tuple(2**power for power in range(13))

# A process knows the time at which it made a series, and not a replica.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counts of one process; with ``folder``, of all processes that count in it.

    Made once, before the fork: what the master has made is what each worker has, in files of its own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        one = None if folder else self.registry
        if folder:
            MultiProcessCollector(self.registry, str(folder))  # type: ignore[no-untyped-call]
        requests = Counter("forkcast_requests_total", "Requests answered.", ("route", "status"), registry=one)
        words = "From the start of a request for a prediction to its answer."
        seconds = _Histogram("forkcast_request_seconds", words, ("route",), buckets=_SECONDS, registry=one)
        words = "How long a request's rows were in the queue."
        self._wait = _Histogram("forkcast_wait_seconds", words, buckets=_SHORT, registry=one)
        self._call = _Histogram("forkcast_predict_seconds", "One predict call.", buckets=_SHORT, registry=one)
        self._rows = _Histogram("forkcast_batch_rows", "Rows of one predict call.", buckets=_ROWS, registry=one)
        self._pending = Gauge("forkcast_pending_rows", "Rows that wait now.", registry=one, multiprocess_mode="livesum")
        sheds = Counter("forkcast_sheds_total", "Requests refused with 503.", ("reason",), registry=one)
        self._workers = Gauge("forkcast_workers", "Live workers.", registry=one, multiprocess_mode="livesum")
        self._requests = _Requests(requests)
        self._seconds = {route: seconds.labels(route).observe for route in PREDICTIONS}
        self._sheds = {reason: sheds.labels(reason).inc for reason in REASONS}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request for a prediction gets its answer, so long after it came."""
        self._requests[route, status]()
        self._seconds[route](seconds)

    def counted(self, route: str, status: int) -> None:
        """Any other request gets its answer."""
        self._requests[route, status]()

    def refused(self, reason: str) -> None:
        """A request was not taken, or not kept."""
        self._sheds[reason]()

    def waited(self, seconds: Sequence[float]) -> None:
        """The rows of so many requests came to their predict call."""
        self._wait.observe_all(seconds)

    def called(self, rows: int, seconds: float) -> None:
        """A predict call ended."""
        self._rows.observe(rows)
        self._call.observe(seconds)

    def publish(self, pending: int) -> None:
        """Say that the worker lives, and how many rows wait in it."""
        self._workers.set(1)
        self._pending.set(pending)


class _Histogram(Histogram):
    """One that finds the bucket at once, and takes many amounts together: most of them belong into the same one."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002
        """Count one amount; exemplars are not kept, as in prometheus_client with several processes."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Count each of them."""
        if len(amounts) == 1:  # what follows would take three times as long
            self.observe(amounts[0])
            return
        self._sum.inc(sum(amounts))
        for bucket, count in Tally([bisect_left(self._upper_bounds, amount) for amount in amounts]).items():
            self._buckets[bucket].inc(count)


class _Requests(dict[tuple[str, int], Callable[[], None]]):
    """How to count a request, by route and status; prometheus_client itself takes a microsecond to look that up."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        super().__init__({(route, 200): counter.labels(route, 200).inc for route in ROUTES})

    def __missing__(self, key: tuple[str, int]) -> Callable[[], None]:
        count = self[key] = self._counter.labels(*key).inc
        return count
