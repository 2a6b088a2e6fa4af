"""The metrics that each worker counts. Dashboards and alerts depend on their names and labels."""

from __future__ import annotations

import collections
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector

PREDICT, INVOCATIONS, INFER = "/predict", "/invocations", "/v2/infer"
# The values of the label `route`. All other paths count as OTHER_ROUTE, so that clients cannot create series.
PREDICTION_ROUTES = (PREDICT, INVOCATIONS, INFER)
OTHER_ROUTE = "other"
ROUTES = (*PREDICTION_ROUTES, "/health", "/ready", OTHER_ROUTE)
REFUSAL_REASONS = ("full", "draining")

# Upper bounds of the histograms' buckets.
_REQUEST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A predict call of one row may take 20 us, and so may the wait for it.
_CALL_SECONDS = (0.00005, 0.0001, 0.00025, *_REQUEST_SECONDS)
_BATCH_ROWS = tuple(2**power for power in range(13))

# `_created` series would hold the time at which one process created a series, which says nothing about the replica.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one process; with ``folder``, the sum over all processes that keep theirs in that folder.

    Created once in the master, before the fork: each worker inherits the objects and counts in files of its own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        # With a folder, a scrape reads the files of all processes, not the objects of this one.
        registry = None if folder else self.registry
        if folder:
            MultiProcessCollector(self.registry, str(folder))  # type: ignore[no-untyped-call]

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=registry, multiprocess_mode="livesum")

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> _Histogram:
            return _Histogram(name, text, labels, buckets=buckets, registry=registry)

        self._requests = _RequestCounters(counter("forkcast_requests_total", "Requests answered.", "route", "status"))
        text = "Time from the start of a prediction request to its answer."
        seconds = histogram("forkcast_request_seconds", text, _REQUEST_SECONDS, "route")
        self._wait = histogram("forkcast_wait_seconds", "Time a request's rows spent in the queue.", _CALL_SECONDS)
        self._call = histogram("forkcast_predict_seconds", "Duration of a predict call.", _CALL_SECONDS)
        self._rows = histogram("forkcast_batch_rows", "Rows of a predict call.", _BATCH_ROWS)
        self._pending = gauge("forkcast_pending_rows", "Rows waiting for a predict call.")
        sheds = counter("forkcast_sheds_total", "Requests refused with 503.", "reason")
        self._workers = gauge("forkcast_workers", "Live workers.")
        self._seconds = {route: seconds.labels(route).observe for route in PREDICTION_ROUTES}
        self._sheds = {reason: sheds.labels(reason).inc for reason in REFUSAL_REASONS}

    def prediction_answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer to a prediction request, ``seconds`` after the request began."""
        self._requests[route, status]()
        self._seconds[route](seconds)

    def request_answered(self, route: str, status: int) -> None:
        """Count an answer to any other request."""
        self._requests[route, status]()

    def request_refused(self, reason: str) -> None:
        """Count a request that was refused, for one of ``REFUSAL_REASONS``."""
        self._sheds[reason]()

    def requests_dequeued(self, seconds: Sequence[float]) -> None:
        """Count requests whose predict call begins; ``seconds`` holds the time that each spent in the queue."""
        self._wait.observe_all(seconds)

    def predict_called(self, rows: int, seconds: float) -> None:
        """Count a predict call that has ended."""
        self._rows.observe(rows)
        self._call.observe(seconds)

    def publish(self, pending: int) -> None:
        """Publish that this worker is alive, and how many rows wait in its queue."""
        self._workers.set(1)
        self._pending.set(pending)


class _Histogram(Histogram):
    """A histogram that finds buckets by binary search and takes many amounts in one call.

    Amounts of one call usually fall into the same bucket, which is then changed once.
    """

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002
        """Count one amount. Exemplars are ignored, as prometheus_client does with several processes."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Count several amounts in one pass."""
        if len(amounts) == 1:  # the general case takes three times as long
            self.observe(amounts[0])
            return
        self._sum.inc(sum(amounts))
        buckets = [bisect_left(self._upper_bounds, amount) for amount in amounts]
        for bucket, count in collections.Counter(buckets).items():
            self._buckets[bucket].inc(count)


class _RequestCounters(dict[tuple[str, int], Callable[[], None]]):
    """The functions that count a request, by route and status: ``Counter.labels`` takes a microsecond to find one."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        super().__init__({(route, 200): counter.labels(route, 200).inc for route in ROUTES})

    def __missing__(self, key: tuple[str, int]) -> Callable[[], None]:
        count = self[key] = self._counter.labels(*key).inc
        return count
