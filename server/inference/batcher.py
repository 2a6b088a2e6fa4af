"""Many waiting requests, one predict call. Knows neither HTTP nor MLflow.

Rows that wait while a predict call runs are taken together by the next one. There is no timer: a lone request never
waits for company, and the busier the worker, the fuller its batches.

A call that takes a few milliseconds at most runs in the event loop itself, without a hand-over to a thread and back;
one that would keep the loop from its other work runs in a thread. What calls took at the warm-up tells which.
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

from server.errors import Draining, QueueFull, Unavailable
from server.inference.rows import Prediction, Row

# The longest that a predict call may keep the event loop from everything else (seconds).
INLINE = 0.005
# After a call in the loop that took ten times as long, so many calls run in the thread: some rows may be slow.
_SLOW = 10 * INLINE
_WARY = 1000
# How a model is timed: calls of one row and of many, the fastest of a few, within this time (seconds).
_MANY = 64
_TRIES = 5
_PATIENCE = 0.25

PredictCall = Callable[[Sequence[Row]], Prediction]


class Observer(Protocol):
    """Who is told what happens to requests in the queue."""

    def request_refused(self, reason: str) -> None:
        """A request was not taken, or not kept: "full" or "draining"."""
        ...

    def requests_dequeued(self, seconds: Sequence[float]) -> None:
        """The rows of so many requests came to their predict call."""
        ...

    def predict_called(self, rows: int, seconds: float) -> None:
        """A predict call ended. Told in the thread that it ran in."""
        ...


class NullObserver:
    """An observer that ignores what it is told."""

    def request_refused(self, reason: str) -> None:
        """Nothing."""

    def requests_dequeued(self, seconds: Sequence[float]) -> None:
        """Nothing."""

    def predict_called(self, rows: int, seconds: float) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What predict calls cost: seconds for a call of one row, and for each row more."""

    call: float
    row: float

    def seconds(self, rows: int, most: int) -> float:
        """Estimate the seconds needed to predict rows in calls of at most ``most`` rows."""
        calls = -(-rows // most)
        return calls * self.call + (rows - calls) * self.row

    @classmethod
    def measure(cls, predict: PredictCall, row: Row) -> Pace:
        """By calling ``predict`` on copies of ``row``; the first call, which makes things on demand, is not counted.

        Raises:
            Exception: whatever ``predict`` raises.
        """
        predict([row])
        one = _fastest(predict, [row])
        if one > INLINE:  # what a row more costs makes no difference any more
            return cls(one, 0.0)
        many = _fastest(predict, [row] * _MANY)
        return cls(one, max(many - one, 0.0) / (_MANY - 1))


def _fastest(predict: PredictCall, rows: Sequence[Row]) -> float:
    fastest, ends = float("inf"), time.perf_counter() + _PATIENCE
    for _ in range(_TRIES):
        started = time.perf_counter()
        predict(rows)
        fastest = min(fastest, time.perf_counter() - started)
        if time.perf_counter() > ends:
            break
    return fastest


# Until a model was timed, and of one that cannot predict its own example.
_UNKNOWN = Pace(float("inf"), 0.0)


@dataclass(slots=True)
class _Item:
    rows: Sequence[Row]
    answer: asyncio.Future[Prediction]
    since: float
    alone: bool = False


class Batcher:
    """The queue of one worker, and the one predict call that may run at a time.

    ``predict`` is called in the event loop or in ``executor``. ``max_batch_rows`` bounds the rows of one call,
    ``max_pending`` the rows waiting for one. ``observer`` is told of requests, and not of the warm-up.
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
        self._pace = _UNKNOWN
        self._waiting: deque[_Item] = deque()
        self._pending = 0
        self._busy = False
        self._wary = 0
        self._closed = False
        self._called = 0.0

    @property
    def call_seconds(self) -> float:
        """How long the predict call that runs now has been running (seconds); 0 if none does."""
        return time.monotonic() - self._called if self._busy and self._called else 0.0

    @property
    def pending(self) -> int:
        """The rows that wait for a predict call."""
        return self._pending

    async def warm_up(self, row: Row) -> Prediction:
        """Time the model, before the first request; what it predicts for ``row``.

        Raises:
            Exception: whatever ``predict`` raises; its calls will then run in the thread.
        """
        call = partial(self._call, predict=self._predict)
        prediction = await self._loop.run_in_executor(self._executor, call, [row])
        self._pace = await self._loop.run_in_executor(self._executor, Pace.measure, call, row)
        return prediction

    def submit(self, rows: Sequence[Row]) -> asyncio.Future[Prediction]:
        """Queue rows; the future gets their prediction, or what ``predict`` raised. Cancel it to leave the queue.

        Raises:
            QueueFull: the rows do not fit beside those that wait.
            Draining: the batcher is closed.
        """
        if self._closed:
            raise self._refusal(Draining("this worker is stopping; try again"))
        if self._pending + len(rows) > self._max_pending:
            words = f"{self._pending} rows are waiting, at most {self._max_pending} may; try again"
            raise self._refusal(QueueFull(words))
        item = _Item(rows, self._loop.create_future(), time.perf_counter())
        self._waiting.append(item)
        self._pending += len(rows)
        if not self._busy:
            # Not at once: what else this turn of the loop reads from the sockets comes along.
            self._busy = True
            self._loop.call_soon(self._start)
        return item.answer

    def close(self) -> None:
        """Refuse new rows, and those that still wait."""
        self._closed = True
        self._refuse(self._waiting)
        self._waiting.clear()
        self._pending = 0

    def _refuse(self, items: Iterable[_Item]) -> None:
        for item in items:
            if not item.answer.done():
                item.answer.set_exception(self._refusal(Draining("this worker is stopping; try again")))

    def _refusal(self, error: Unavailable) -> Unavailable:
        self._observer.request_refused(error.reason)
        return error

    def _start(self) -> None:
        items = self._take()
        self._busy = bool(items)
        if not items:
            return
        self._tell_waits(items)
        rows = items[0].rows if len(items) == 1 else [row for item in items for row in item.rows]
        if not self._wary and self._pace.seconds(len(rows), self._max_batch_rows) <= INLINE:
            self._finish_inline(items, rows)
            return
        self._wary = max(0, self._wary - 1)
        self._called = time.monotonic()
        call = self._loop.run_in_executor(self._executor, self._call, rows)
        call.add_done_callback(partial(self._finish, items))

    def _take(self) -> list[_Item]:
        """The next batch, in order of arrival, without those whose caller has left."""
        items: list[_Item] = []
        size = 0
        while self._waiting:
            item = self._waiting[0]
            if items and (item.alone or items[0].alone or size + len(item.rows) > self._max_batch_rows):
                break
            self._waiting.popleft()
            self._pending -= len(item.rows)
            if not item.answer.done():
                items.append(item)
                size += len(item.rows)
        return items

    def _tell_waits(self, items: Iterable[_Item]) -> None:
        now = time.perf_counter()
        # Those that are alone have waited before, for the call that failed.
        self._observer.requests_dequeued([now - item.since for item in items if not item.alone])

    def _observed(self, rows: Sequence[Row]) -> Prediction:
        started = time.perf_counter()
        try:
            return self._predict(rows)
        finally:
            self._observer.predict_called(len(rows), time.perf_counter() - started)

    def _call(self, rows: Sequence[Row], predict: PredictCall | None = None) -> Prediction:
        """One prediction of any number of rows; without ``predict``, as requests get it."""
        most, predict = self._max_batch_rows, predict or self._observed
        try:
            if len(rows) <= most:
                prediction = predict(rows)
            else:
                chunks = [rows[start : start + most] for start in range(0, len(rows), most)]
                prediction = Prediction.concatenate([predict(chunk) for chunk in chunks])
        except BaseException as error:
            # These mean something to the loop (leave, cancel, end of iteration); from a model they are its failure.
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise
            raise RuntimeError(f"the model raised {type(error).__name__}") from error
        if len(prediction.labels) != len(rows):
            raise RuntimeError(f"the model answered {len(prediction.labels)} labels for {len(rows)} rows")
        return prediction

    def _finish_inline(self, items: list[_Item], rows: Sequence[Row]) -> None:
        started = time.perf_counter()
        try:
            prediction = self._call(rows)
        except Exception as error:
            self._fail(items, error)
        else:
            self._deliver(items, prediction)
        if time.perf_counter() - started > _SLOW:
            self._wary = _WARY
        # The loop has its turn before the next call; those that came meanwhile are taken by it.
        self._loop.call_soon(self._start)

    def _finish(self, items: list[_Item], call: asyncio.Future[Prediction]) -> None:
        self._called = 0.0
        error = call.exception()
        if error is None:
            self._deliver(items, call.result())
        else:
            self._fail(items, error)
        self._start()

    def _deliver(self, items: list[_Item], prediction: Prediction) -> None:
        start = 0
        for item in items:
            stop = start + len(item.rows)
            if not item.answer.done():
                item.answer.set_result(prediction.part(start, stop))
            start = stop

    def _fail(self, items: list[_Item], error: BaseException) -> None:
        """One request's rows broke the call of all: each gets a call of its own, so only the guilty one fails."""
        if len(items) == 1:
            if not items[0].answer.done():
                items[0].answer.set_exception(error)
        elif self._closed:
            self._refuse(items)
        else:
            for item in reversed(items):
                item.alone = True
                self._waiting.appendleft(item)
                self._pending += len(item.rows)
