"""What a worker counts, under the names that Prometheus knows it by: dashboards stand on them."""

from __future__ import annotations

from collections.abc import Callable
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
        seconds = Histogram(
            "forkcast_request_seconds",
            "From the start of a request for a prediction to its answer sent.",
            ("route",),
            buckets=_SECONDS,
            registry=one,
        )
        sheds = Counter("forkcast_sheds_total", "Requests refused with 503, by reason.", ("reason",), registry=one)
        self._wait = Histogram(
            "forkcast_wait_seconds", "A request's rows in the queue.", buckets=_SHORT, registry=one
        ).observe
        self._predict = Histogram("forkcast_predict_seconds", "One predict call.", buckets=_SHORT, registry=one).observe
        self._rows = Histogram("forkcast_batch_rows", "Rows of one predict call.", buckets=_ROWS, registry=one).observe
        self._pending = Gauge("forkcast_pending_rows", "Rows that wait now.", registry=one, multiprocess_mode="livesum")
        self._workers = Gauge("forkcast_workers", "Live workers.", registry=one, multiprocess_mode="livesum")
        self._requests = _Requests(requests)
        self._seconds = {route: seconds.labels(route).observe for route in PREDICTIONS}
        self._sheds = {reason: sheds.labels(reason).inc for reason in REASONS}

    def answered(self, route: str, status: int, seconds: float | None = None) -> None:
        """A request got its answer; ``seconds`` after it came, for a route of predictions."""
        self._requests[route, status]()
        if seconds is not None:
            self._seconds[route](seconds)

    def refused(self, reason: str) -> None:
        """A request was not taken, or not kept."""
        self._sheds[reason]()

    def waited(self, seconds: float) -> None:
        """A request's rows came to their predict call."""
        self._wait(seconds)

    def called(self, rows: int, seconds: float) -> None:
        """A predict call ended."""
        self._rows(rows)
        self._predict(seconds)

    def publish(self, pending: int) -> None:
        """Say that the worker lives, and how many rows wait in it."""
        self._workers.set(1)
        self._pending.set(pending)


class _Requests(dict[tuple[str, int], Callable[[], None]]):
    """How to count a request, by route and status; prometheus_client itself takes a microsecond to look that up."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        super().__init__({(route, 200): counter.labels(route, 200).inc for route in ROUTES})

    def __missing__(self, key: tuple[str, int]) -> Callable[[], None]:
        count = self[key] = self._counter.labels(*key).inc
        return count
