"""Many waiting requests, one predict call. Knows neither HTTP nor MLflow.

Rows that wait while a predict call runs are taken together by the next one. There is no timer: a lone request never
waits for company, and the busier the worker, the fuller its batches.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from server.errors import Draining, QueueFull
from server.rows import Prediction, Rows


@dataclass(slots=True)
class _Item:
    rows: Rows
    answer: asyncio.Future[Prediction]
    alone: bool = False


class Batcher:
    """The queue of one worker, and the one predict call that may run at a time.

    ``predict`` is called in ``executor``, so that a slow model does not stop the event loop. ``max_batch_rows`` bounds
    the rows of one call, ``max_pending`` the rows waiting for one.
    """

    def __init__(
        self,
        predict: Callable[[Rows], Prediction],
        executor: Executor,
        *,
        max_batch_rows: int,
        max_pending: int,
    ) -> None:
        self._predict = predict
        self._executor = executor
        self._max_batch_rows = max_batch_rows
        self._max_pending = max_pending
        self._waiting: deque[_Item] = deque()
        self._pending = 0
        self._busy = False
        self._closed = False
        self._called = 0.0

    @property
    def calling(self) -> float:
        """How long the predict call that runs now has been running (seconds); 0 if none does."""
        return time.monotonic() - self._called if self._busy and self._called else 0.0

    @property
    def pending(self) -> int:
        """The rows that wait for a predict call."""
        return self._pending

    def submit(self, rows: Rows) -> asyncio.Future[Prediction]:
        """Queue rows; the future gets their prediction, or what ``predict`` raised. Cancel it to leave the queue.

        Raises:
            QueueFull: the rows do not fit beside those that wait.
            Draining: the batcher is closed.
        """
        if self._closed:
            raise Draining("this worker is stopping; try again")
        if self._pending + len(rows) > self._max_pending:
            raise QueueFull(f"{self._pending} rows are waiting, at most {self._max_pending} may; try again")
        loop = asyncio.get_running_loop()
        item = _Item(rows, loop.create_future())
        self._waiting.append(item)
        self._pending += len(rows)
        if not self._busy:
            # Not at once: what else this turn of the loop reads from the sockets comes along.
            self._busy = True
            loop.call_soon(self._start)
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
                item.answer.set_exception(Draining("this worker is stopping; try again"))

    def _start(self) -> None:
        items = self._take()
        self._busy = bool(items)
        if not items:
            return
        rows = Rows.concatenate([item.rows for item in items])
        self._called = time.monotonic()
        call = asyncio.get_running_loop().run_in_executor(self._executor, self._call, rows)
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

    def _call(self, rows: Rows) -> Prediction:
        try:
            parts = [self._predict(chunk) for chunk in rows.chunks(self._max_batch_rows)]
        except BaseException as error:
            # These mean something to the loop (leave, cancel, end of iteration); from a model they are its failure.
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise
            raise RuntimeError(f"the model raised {type(error).__name__}") from error
        prediction = Prediction.concatenate(parts)
        if len(prediction.labels) != len(rows):
            raise RuntimeError(f"the model answered {len(prediction.labels)} labels for {len(rows)} rows")
        return prediction

    def _finish(self, items: list[_Item], call: asyncio.Future[Prediction]) -> None:
        self._called = 0.0
        error = call.exception()
        if error is None:
            self._deliver(items, call.result())
        elif len(items) == 1:
            if not items[0].answer.done():
                items[0].answer.set_exception(error)
        else:
            self._retry_alone(items)
        self._start()

    def _deliver(self, items: list[_Item], prediction: Prediction) -> None:
        start = 0
        for item in items:
            stop = start + len(item.rows)
            if not item.answer.done():
                item.answer.set_result(prediction.part(start, stop))
            start = stop

    def _retry_alone(self, items: list[_Item]) -> None:
        """One request's rows broke the call of all: each gets a call of its own, so only the guilty one fails."""
        if self._closed:
            self._refuse(items)
            return
        for item in reversed(items):
            item.alone = True
            self._waiting.appendleft(item)
            self._pending += len(item.rows)
