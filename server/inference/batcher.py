"""The queue of a worker, which batches waiting requests into one predict call. It knows neither HTTP nor MLflow.

Rows that arrive while a predict call runs are predicted together by the next call. There is no timer: a lone request
never waits for others, and the busier the worker, the larger its batches.

A call of a few milliseconds runs in the event loop itself, which saves the hand-over to a thread and back. A longer one
would block the loop and runs in a thread. The durations measured at the warm-up decide between the two.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from server.errors import Draining, InvalidRows, QueueFull, Unavailable
from server.inference.rows import Options, Prediction, Row

# The longest time that a predict call may block the event loop.
INLINE_LIMIT_SECONDS = 0.005
# After a call in the loop that took ten times as long, the next calls run in the thread: some rows may be slow.
_SLOW_CALL_SECONDS = 10 * INLINE_LIMIT_SECONDS
_CAUTIOUS_CALLS = 1000
# A model is timed with calls of one row and of this many; of up to 5 calls within a quarter second the fastest counts.
_TIMED_ROWS = 64
_TIMED_CALLS = 5
_TIMING_SECONDS = 0.25

# It is called with the rows, and with the options of the requests if they have any.
PredictCall = Callable[..., Prediction]


class Observer(Protocol):
    """The events of a queue that metrics count."""

    def request_refused(self, reason: str) -> None:
        """Note a refused request; the reason is "full" or "draining"."""
        ...

    def requests_dequeued(self, seconds: Sequence[float]) -> None:
        """Note requests whose predict call begins; ``seconds`` holds the time that each spent in the queue."""
        ...

    def predict_called(self, rows: int, seconds: float) -> None:
        """Note a predict call that has ended. This is called in the thread that the call ran in."""
        ...


class NullObserver:
    """An observer that ignores all events."""

    def request_refused(self, reason: str) -> None:
        """Ignore a refused request."""

    def requests_dequeued(self, seconds: Sequence[float]) -> None:
        """Ignore requests whose call begins."""

    def predict_called(self, rows: int, seconds: float) -> None:
        """Ignore a predict call."""


@dataclass(frozen=True, slots=True)
class CallCost:
    """The duration of a predict call of one row, and of each further row in the call (seconds)."""

    call_seconds: float
    row_seconds: float

    def estimate(self, rows: int, max_rows: int) -> float:
        """Estimate the seconds needed to predict rows in calls of at most ``max_rows`` rows."""
        calls = -(-rows // max_rows)
        return calls * self.call_seconds + (rows - calls) * self.row_seconds

    @classmethod
    def measure(cls, predict: PredictCall, row: Row) -> CallCost:
        """Measure ``predict`` on copies of ``row``, without its first call, which may initialize the model.

        Raises:
            Exception: any exception of ``predict``.
        """
        predict([row])
        call_seconds = _fastest_call(predict, [row])
        if call_seconds > INLINE_LIMIT_SECONDS:  # all calls run in the thread, whatever further rows cost
            return cls(call_seconds, 0.0)
        batch_seconds = _fastest_call(predict, [row] * _TIMED_ROWS)
        return cls(call_seconds, max(batch_seconds - call_seconds, 0.0) / (_TIMED_ROWS - 1))


def _fastest_call(predict: PredictCall, rows: Sequence[Row]) -> float:
    fastest, deadline = float("inf"), time.perf_counter() + _TIMING_SECONDS
    for _ in range(_TIMED_CALLS):
        started = time.perf_counter()
        predict(rows)
        fastest = min(fastest, time.perf_counter() - started)
        if time.perf_counter() > deadline:
            break
    return fastest


# The cost before a model is timed, and of a model that refuses its example: calls run in the thread.
_UNKNOWN_COST = CallCost(float("inf"), 0.0)


@dataclass(slots=True)
class _WaitingRequest:
    rows: Sequence[Row]
    answer: asyncio.Future[Prediction]
    queued_at: float
    options: Options | None
    # Set if a batch with these rows has failed: they get a predict call of their own.
    alone: bool = False


class Batcher:
    """The queue of one worker, which runs one predict call at a time.

    ``predict`` is called in the event loop or in ``executor``. ``max_batch_rows`` limits the rows of one call, and
    ``max_pending`` the waiting rows. ``observer`` receives the events of requests, but not those of the warm-up.
    """

    def __init__(
        self,
        predict: PredictCall,
        executor: Executor,
        *,
        max_batch_rows: int,
        max_pending: int,
        observer: Observer | None = None,
    ) -> None:
        self._predict = predict
        self._executor = executor
        self._observer = observer or NullObserver()
        self._max_batch_rows = max_batch_rows
        self._max_pending = max_pending
        self._loop = asyncio.get_running_loop()
        self._cost = _UNKNOWN_COST
        self._waiting: deque[_WaitingRequest] = deque()
        self._pending = 0
        self._busy = False
        self._cautious_calls = 0
        self._closed = False
        self._call_started = 0.0

    @property
    def call_seconds(self) -> float:
        """The time that the current predict call in the thread has been running (seconds); 0 if there is none."""
        return time.monotonic() - self._call_started if self._busy and self._call_started else 0.0

    @property
    def pending(self) -> int:
        """The number of rows that wait for a predict call."""
        return self._pending

    async def warm_up(self, row: Row) -> Prediction:
        """Time the model, before the first request, and return its prediction for ``row``.

        Raises:
            Exception: any exception of ``predict``. All later calls then run in the thread.
        """
        call = partial(self._in_chunks, self._predict)
        prediction = await self._loop.run_in_executor(self._executor, call, [row])
        self._cost = await self._loop.run_in_executor(self._executor, CallCost.measure, call, row)
        return prediction

    def submit(self, rows: Sequence[Row], options: Options | None = None) -> asyncio.Future[Prediction]:
        """Queue rows, and return the future of their prediction. Cancel the future to remove the rows from the queue.

        Only requests with equal ``options`` share a predict call. The future gets any exception of ``predict``.

        Raises:
            QueueFull: more than ``max_pending`` rows would wait.
            Draining: the batcher is closed.
        """
        if self._closed:
            raise self._refusal(Draining("this worker is stopping; try again"))
        if self._pending + len(rows) > self._max_pending:
            limit = f"{len(rows)} more would exceed the limit of {self._max_pending}"
            raise self._refusal(QueueFull(f"{self._pending} rows are waiting, and {limit}; try again"))
        request = _WaitingRequest(rows, self._loop.create_future(), time.perf_counter(), options)
        self._waiting.append(request)
        self._pending += len(rows)
        if not self._busy:
            # The call starts in the next turn of the loop, with all requests that this turn reads from the sockets.
            self._busy = True
            self._loop.call_soon(self._start_call)
        return request.answer

    def close(self) -> None:
        """Refuse the rows that wait, and all new ones."""
        self._closed = True
        self._refuse(self._waiting)
        self._waiting.clear()
        self._pending = 0

    def _refuse(self, requests: Iterable[_WaitingRequest]) -> None:
        for request in requests:
            if not request.answer.done():
                request.answer.set_exception(self._refusal(Draining("this worker is stopping; try again")))

    def _refusal(self, error: Unavailable) -> Unavailable:
        self._observer.request_refused(error.reason)
        return error

    def _start_call(self) -> None:
        requests = self._take_batch()
        self._busy = bool(requests)
        if not requests:
            return
        self._report_waits(requests)
        rows = requests[0].rows if len(requests) == 1 else [row for request in requests for row in request.rows]
        if not self._cautious_calls and self._cost.estimate(len(rows), self._max_batch_rows) <= INLINE_LIMIT_SECONDS:
            self._call_inline(requests, rows)
            return
        self._cautious_calls = max(0, self._cautious_calls - 1)
        self._call_started = time.monotonic()
        call = self._loop.run_in_executor(self._executor, self._predict_in_chunks, rows, requests[0].options)
        call.add_done_callback(partial(self._finish_call, requests))

    def _take_batch(self) -> list[_WaitingRequest]:
        """Take the requests of the next batch from the queue, in order, without those that were cancelled."""
        batch: list[_WaitingRequest] = []
        size = 0
        while self._waiting:
            request = self._waiting[0]
            if batch and not self._fits(request, batch[0], size):
                break
            self._waiting.popleft()
            self._pending -= len(request.rows)
            if not request.answer.done():
                batch.append(request)
                size += len(request.rows)
        return batch

    def _fits(self, request: _WaitingRequest, first: _WaitingRequest, size: int) -> bool:
        """Return whether a request may join the batch that ``first`` began, and that has ``size`` rows."""
        if request.alone or first.alone or request.options != first.options:
            return False
        return size + len(request.rows) <= self._max_batch_rows

    def _report_waits(self, requests: Iterable[_WaitingRequest]) -> None:
        now = time.perf_counter()
        # The wait of a request that is retried alone was reported before the call that failed.
        self._observer.requests_dequeued([now - request.queued_at for request in requests if not request.alone])

    def _predict_observed(self, rows: Sequence[Row], options: Options | None) -> Prediction:
        started = time.perf_counter()
        try:
            return self._predict(rows) if options is None else self._predict(rows, options)
        finally:
            self._observer.predict_called(len(rows), time.perf_counter() - started)

    def _predict_in_chunks(self, rows: Sequence[Row], options: Options | None = None) -> Prediction:
        """Predict any number of rows in calls of at most ``max_batch_rows``, which the observer counts."""
        return self._in_chunks(partial(self._predict_observed, options=options), rows)

    def _in_chunks(self, predict: PredictCall, rows: Sequence[Row]) -> Prediction:
        max_rows, start = self._max_batch_rows, 0
        try:
            if len(rows) <= max_rows:
                prediction = predict(rows)
            else:
                parts = []
                for start in range(0, len(rows), max_rows):
                    parts.append(predict(rows[start : start + max_rows]))
                prediction = Prediction.concatenate(parts)
        except InvalidRows as error:
            raise error.moved(start) from None
        except BaseException as error:
            # SystemExit, CancelledError or StopIteration of a model would stop the event loop, a task or an iteration.
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise
            raise RuntimeError(f"the model raised {type(error).__name__}") from error
        if len(prediction.labels) != len(rows):
            raise RuntimeError(f"expected one label per row from the model: {len(rows)}, got {len(prediction.labels)}")
        return prediction

    def _call_inline(self, requests: list[_WaitingRequest], rows: Sequence[Row]) -> None:
        started = time.perf_counter()
        try:
            prediction = self._predict_in_chunks(rows, requests[0].options)
        except Exception as error:
            self._fail(requests, error)
        else:
            self._deliver(requests, prediction)
        if time.perf_counter() - started > _SLOW_CALL_SECONDS:
            self._cautious_calls = _CAUTIOUS_CALLS
        # The loop first handles other events. Requests that it receives meanwhile join the next batch.
        self._loop.call_soon(self._start_call)

    def _finish_call(self, requests: list[_WaitingRequest], call: asyncio.Future[Prediction]) -> None:
        self._call_started = 0.0
        error = call.exception()
        if error is None:
            self._deliver(requests, call.result())
        else:
            self._fail(requests, error)
        self._start_call()

    def _deliver(self, requests: list[_WaitingRequest], prediction: Prediction) -> None:
        start = 0
        for request in requests:
            stop = start + len(request.rows)
            if not request.answer.done():
                request.answer.set_result(prediction.part(start, stop))
            start = stop

    def _fail(self, requests: list[_WaitingRequest], error: BaseException) -> None:
        """Fail a lone request; queue those of a batch again, each alone, so that only the one at fault fails."""
        if len(requests) == 1:
            if not requests[0].answer.done():
                requests[0].answer.set_exception(error)
        elif self._closed:
            self._refuse(requests)
        else:
            for request in reversed(requests):
                request.alone = True
                self._waiting.appendleft(request)
                self._pending += len(request.rows)
