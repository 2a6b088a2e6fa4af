"""Tests of a worker's queue, with fake models that record their calls, block until opened, or run on a fake clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import Draining, QueueFull
from server.inference.batcher import INLINE_LIMIT_SECONDS, Batcher, CallCost, PredictCall
from server.inference.rows import Prediction, Row

pytestmark = pytest.mark.anyio

POISON = -1.0
TIMEOUT_SECONDS = 20  # a test that hangs fails after this time
INLINE_COST, THREAD_COST = CallCost(0.0, 0.0), CallCost(float("inf"), 0.0)


class GatedModel:
    """A model that returns each row's number, raises for POISON, and blocks while ``open`` is not set."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.open = threading.Event()
        self.open.set()
        self._entered = threading.Event()

    def predict(self, rows: Sequence[Row]) -> Prediction:
        numbers = numbers_of(rows)
        self.calls.append(numbers)
        self._entered.set()
        assert self.open.wait(TIMEOUT_SECONDS), "the test did not open the model in time"
        if POISON in numbers:
            raise ValueError("poison")
        return Prediction(numbers, [number / 100 for number in numbers])

    async def block(self, batcher: Batcher, number: float = 0) -> asyncio.Future[Prediction]:
        """Submit a lone request, and return its answer when its predict call has begun and blocks."""
        self.open.clear()
        self._entered.clear()
        answer = batcher.submit(rows_of(number))
        assert await asyncio.to_thread(self._entered.wait, TIMEOUT_SECONDS)
        return answer


def rows_of(*numbers: float) -> list[Row]:
    return [[number] for number in numbers]


def numbers_of(rows: Sequence[Row]) -> list[float]:
    return [cast(float, number) for (number,) in rows]


async def labels(answer: asyncio.Future[Prediction]) -> list[float]:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return list((await answer).labels)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool


@pytest.fixture
def model() -> GatedModel:
    return GatedModel()


@pytest.fixture
async def batcher(model: GatedModel, executor: ThreadPoolExecutor) -> Batcher:
    """A batcher whose calls run in the thread, because it never timed its model, and so may block."""
    return Batcher(model.predict, executor, max_batch_rows=4, max_pending=6)


@pytest.fixture(params=[INLINE_COST, THREAD_COST], ids=["loop", "thread"])
def cost(request: pytest.FixtureRequest) -> CallCost:
    """A measured cost that makes all calls run in the event loop, or all in the thread."""
    cost: CallCost = request.param
    return cost


MakeBatcher = Callable[[PredictCall], Batcher]


@pytest.fixture
def make_batcher(executor: ThreadPoolExecutor, cost: CallCost) -> MakeBatcher:
    def make_batcher(predict: PredictCall) -> Batcher:
        batcher = Batcher(predict, executor, max_batch_rows=4, max_pending=6)
        batcher._cost = cost
        return batcher

    return make_batcher


@pytest.fixture
async def paced_batcher(model: GatedModel, make_batcher: MakeBatcher) -> Batcher:
    """A batcher whose calls run in the event loop or in the thread; its model must stay open."""
    return make_batcher(model.predict)


async def test_lone_request_is_called_in_the_next_turn(model: GatedModel, batcher: Batcher) -> None:
    """A lone request is predicted in the next turn of the event loop, without waiting for others."""
    answer = batcher.submit(rows_of(1))
    assert batcher.pending == 1
    await asyncio.sleep(0)
    assert batcher.pending == 0
    assert await labels(answer) == [1]
    assert model.calls == [[1]]
    assert answer.result().confidences == [0.01]


async def test_requests_of_one_turn_share_a_call(model: GatedModel, paced_batcher: Batcher) -> None:
    """Requests that arrive in the same turn of the event loop share a call, and each gets its own labels."""
    first, second = paced_batcher.submit(rows_of(1)), paced_batcher.submit(rows_of(2, 3))
    assert await labels(first) == [1]
    assert await labels(second) == [2, 3]
    assert model.calls == [[1, 2, 3]]


async def test_waiting_requests_share_the_next_call(model: GatedModel, batcher: Batcher) -> None:
    """Requests that arrive during a call share the next one, in order of arrival."""
    running = await model.block(batcher)
    answers = [batcher.submit(rows_of(number)) for number in (1, 2, 3)]
    assert batcher.pending == 3
    model.open.set()
    assert await labels(running) == [0]
    assert [await labels(answer) for answer in answers] == [[1], [2], [3]]
    assert model.calls == [[0], [1, 2, 3]]
    assert batcher.pending == 0


async def test_idle_batcher_starts_again(model: GatedModel, paced_batcher: Batcher) -> None:
    """A batcher whose queue was empty predicts the next request."""
    for number in (1, 2, 3):
        assert await labels(paced_batcher.submit(rows_of(number))) == [number]
    assert model.calls == [[1], [2], [3]]


async def test_batch_is_limited_and_keeps_the_order(model: GatedModel, batcher: Batcher) -> None:
    """A batch has at most MAX_BATCH_ROWS rows, does not split a request, and keeps the order of requests."""
    running = await model.block(batcher)
    answers = [batcher.submit(rows) for rows in (rows_of(1, 2, 3), rows_of(4, 5), rows_of(6))]
    model.open.set()
    assert [await labels(answer) for answer in [running, *answers]] == [[0], [1, 2, 3], [4, 5], [6]]
    assert model.calls == [[0], [1, 2, 3], [4, 5, 6]]


async def test_large_request_is_split_and_answered_completely(model: GatedModel, paced_batcher: Batcher) -> None:
    """A request of more than MAX_BATCH_ROWS rows is predicted in several calls and gets one answer."""
    answer = paced_batcher.submit(rows_of(1, 2, 3, 4, 5, 6))
    assert await labels(answer) == [1, 2, 3, 4, 5, 6]
    assert answer.result().confidences == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    assert model.calls == [[1, 2, 3, 4], [5, 6]]
    assert paced_batcher.pending == 0


async def test_full_queue_refuses_until_there_is_room(model: GatedModel, batcher: Batcher) -> None:
    """A request that would make more than MAX_PENDING rows wait is refused at once, until the queue has room."""
    running = await model.block(batcher)
    waiting = batcher.submit(rows_of(1, 2, 3, 4, 5))
    with pytest.raises(QueueFull, match="5 rows are waiting, and 2 more would exceed the limit of 6; try again"):
        batcher.submit(rows_of(6, 7))
    last = batcher.submit(rows_of(8))
    assert batcher.pending == 6
    model.open.set()
    assert [await labels(answer) for answer in (running, waiting, last)] == [[0], [1, 2, 3, 4, 5], [8]]
    assert await labels(batcher.submit(rows_of(1, 2, 3, 4, 5, 6))) == [1, 2, 3, 4, 5, 6]
    assert batcher.pending == 0


async def test_cancelled_waiting_request_is_not_predicted(model: GatedModel, batcher: Batcher) -> None:
    """A request that is cancelled while it waits is not predicted, and the others get their own answers."""
    running = await model.block(batcher)
    first, cancelled, last = (batcher.submit(rows_of(number)) for number in (1, 2, 3))
    cancelled.cancel()
    model.open.set()
    assert [await labels(answer) for answer in (running, first, last)] == [[0], [1], [3]]
    assert model.calls == [[0], [1, 3]]
    assert batcher.pending == 0


async def test_batch_without_callers_is_not_predicted(model: GatedModel, batcher: Batcher) -> None:
    """If all waiting requests are cancelled, no call is made for them, and the next request starts one."""
    running = await model.block(batcher)
    for number in (1, 2):
        batcher.submit(rows_of(number)).cancel()
    model.open.set()
    assert await labels(running) == [0]
    assert await labels(batcher.submit(rows_of(3))) == [3]
    assert model.calls == [[0], [3]]
    assert batcher.pending == 0


async def test_cancelling_a_running_call_affects_no_other_request(model: GatedModel, batcher: Batcher) -> None:
    """Cancelling a request during its call does not affect the next one, whether the call succeeds or fails."""
    for number in (0.0, POISON):
        running = await model.block(batcher, number)
        running.cancel()
        model.open.set()
        assert await labels(batcher.submit(rows_of(1))) == [1]
    assert model.calls == [[0], [1], [POISON], [1]]
    assert batcher.pending == 0


async def test_only_the_request_at_fault_fails(model: GatedModel, paced_batcher: Batcher) -> None:
    """A request that makes a shared call fail gets the model's error, and the others get their answers."""
    answers = [paced_batcher.submit(rows_of(number)) for number in (1, POISON, 3)]
    async with asyncio.timeout(TIMEOUT_SECONDS):
        first, poisoned, last = await asyncio.gather(*answers, return_exceptions=True)
    assert isinstance(poisoned, ValueError)
    assert [first, last] == [Prediction([1], [0.01]), Prediction([3], [0.03])]
    assert model.calls == [[1, POISON, 3], [1], [POISON], [3]]
    assert paced_batcher.pending == 0


async def test_retries_precede_later_requests(model: GatedModel, batcher: Batcher) -> None:
    """Requests of a failed call are retried one by one before later requests, which are batched again."""
    running = await model.block(batcher)
    valid, poisoned = (batcher.submit(rows_of(number)) for number in (1, POISON))
    model.open.set()
    assert await labels(running) == [0]
    later = [batcher.submit(rows_of(number)) for number in (3, 4)]
    assert [await labels(answer) for answer in (valid, *later)] == [[1], [3], [4]]
    with pytest.raises(ValueError, match="poison"):
        await labels(poisoned)
    assert model.calls == [[0], [1, POISON], [1], [POISON], [3, 4]]
    assert batcher.pending == 0


@pytest.mark.parametrize("answered", [0, 1, 3])
async def test_wrong_number_of_labels_is_an_error(make_batcher: MakeBatcher, answered: int) -> None:
    """A request fails if the model returns fewer or more labels than rows, so that no row gets another's label."""
    batcher = make_batcher(lambda _: Prediction([7] * answered, None))
    with pytest.raises(RuntimeError, match=f"one label per row from the model: 2, got {answered}"):
        await labels(batcher.submit(rows_of(1, 2)))
    assert batcher.pending == 0


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_control_flow_exception_fails_only_its_request(
    make_batcher: MakeBatcher, error: type[BaseException]
) -> None:
    """A model's exception that would end the event loop, a task or the process only fails its request."""

    def predict(rows: Sequence[Row]) -> Prediction:
        if POISON in numbers_of(rows):
            raise error
        return Prediction(numbers_of(rows), None)

    batcher = make_batcher(predict)
    answers = [batcher.submit(rows_of(number)) for number in (1, POISON, 3)]
    assert await labels(answers[0]) == [1]
    with pytest.raises(RuntimeError, match=f"the model raised {error.__name__}"):
        await labels(answers[1])
    assert await labels(answers[2]) == [3]
    with pytest.raises(RuntimeError, match=f"the model raised {error.__name__}"):
        await labels(batcher.submit(rows_of(POISON)))
    assert await labels(batcher.submit(rows_of(1))) == [1]


async def test_model_without_probabilities_gives_no_confidences(make_batcher: MakeBatcher) -> None:
    """A model without probabilities gives no confidences, for batched and for split requests."""
    batcher = make_batcher(lambda rows: Prediction([1] * len(rows), None))
    answers = [batcher.submit(rows_of(*numbers)) for numbers in ((1, 2), (3,), (4,))]
    split = make_batcher(lambda rows: Prediction([1] * len(rows), None)).submit(rows_of(1, 2, 3, 4, 5))
    assert await split == Prediction([1] * 5, None)
    assert [await answer for answer in answers] == [
        Prediction([1, 1], None),
        Prediction([1], None),
        Prediction([1], None),
    ]


async def test_close_refuses_waiting_and_new_requests(model: GatedModel, batcher: Batcher) -> None:
    """Closing the batcher refuses waiting and new requests, and the running call still gives its answer."""
    running = await model.block(batcher)
    waiting, cancelled = batcher.submit(rows_of(1)), batcher.submit(rows_of(2))
    cancelled.cancel()
    batcher.close()
    assert batcher.pending == 0
    with pytest.raises(Draining):
        await labels(waiting)
    with pytest.raises(Draining):
        batcher.submit(rows_of(3))
    model.open.set()
    assert await labels(running) == [0]
    assert model.calls == [[0]]
    assert batcher.pending == 0


async def test_close_in_the_turn_of_a_request_makes_no_call(model: GatedModel, paced_batcher: Batcher) -> None:
    """A request that is submitted and refused in the same turn of the event loop causes no call."""
    waiting = paced_batcher.submit(rows_of(1))
    paced_batcher.close()
    with pytest.raises(Draining):
        await labels(waiting)
    assert model.calls == []


async def test_call_in_the_thread_does_not_block_the_loop(model: GatedModel, batcher: Batcher) -> None:
    """The event loop keeps running while a predict call blocks in the thread."""
    running = await model.block(batcher)
    turns = 0
    while turns < 100:
        await asyncio.sleep(0)
        turns += 1
    assert not running.done()
    asyncio.get_running_loop().call_soon(model.open.set)
    assert await labels(running) == [0]


class ClockedModel:
    """A model with a fake clock that each call advances; calls are recorded with their size and thread."""

    def __init__(self, call: float, row: float, first: float = 0.0) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self.threads: list[int] = []
        self._call = call
        self._row = row
        self._first = first

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def predict(self, rows: Sequence[Row]) -> Prediction:
        numbers = numbers_of(rows)
        self.now += self._call + (len(rows) - 1) * self._row
        if not self.sizes:
            self.now += self._first
        self.sizes.append(len(rows))
        self.threads.append(threading.get_ident())
        if POISON in numbers:
            raise ValueError("poison")
        return Prediction(numbers, None)

    def forget_calls(self) -> None:
        self.sizes.clear()
        self.threads.clear()


MakeClockedModel = Callable[..., ClockedModel]


@pytest.fixture
def make_clocked_model(monkeypatch: pytest.MonkeyPatch) -> MakeClockedModel:
    """A function that creates a model, and makes the batcher use the model's clock."""

    def make_clocked_model(call: float, row: float, first: float = 0.0) -> ClockedModel:
        model = ClockedModel(call, row, first)
        monkeypatch.setattr("server.inference.batcher.time", model)
        return model

    return make_clocked_model


def test_cost_excludes_the_first_call(make_clocked_model: MakeClockedModel) -> None:
    """The cost of a call and of each further row is measured without the model's first call, which may be slow."""
    model = make_clocked_model(call=0.002, row=0.0001, first=9.0)
    cost = CallCost.measure(model.predict, [1.0])
    assert [cost.call_seconds, cost.row_seconds] == pytest.approx([0.002, 0.0001])
    assert [cost.estimate(rows, 10) for rows in (1, 2, 10, 11, 20)] == pytest.approx(
        [0.002, 0.0021, 0.0029, 0.0049, 0.0058]
    )
    assert set(model.sizes) == {1, 64}


def test_cost_is_that_of_the_fastest_call(make_clocked_model: MakeClockedModel) -> None:
    """The fastest of a few calls of a size counts, because others are delayed by other work of the machine."""
    model = make_clocked_model(call=0.001, row=0.0001)
    delays = iter([0.0, 0.03, 0.02, 0.0, 0.01, 0.04, 0.05, 0.0, 0.01, 0.02, 0.04])

    def predict(rows: Sequence[Row]) -> Prediction:
        model.now += next(delays, 0.0)
        return model.predict(rows)

    cost = CallCost.measure(predict, [1.0])
    assert [cost.call_seconds, cost.row_seconds] == pytest.approx([0.001, 0.0001])


def test_cost_of_a_row_is_never_negative(make_clocked_model: MakeClockedModel) -> None:
    """The cost of a further row is 0 if a call of many rows was measured to be faster than a call of one."""
    cost = CallCost.measure(make_clocked_model(call=0.004, row=-0.00005).predict, [1.0])
    assert [cost.call_seconds, cost.row_seconds] == pytest.approx([0.004, 0.0])


@pytest.mark.parametrize(
    ("call", "sizes"),
    [
        (10.0, [1, 1]),  # the first call, and one that is timed
        (0.3, [1, 1]),
        (0.1, [1, 1, 1, 1]),  # the third timed call ends after the time limit
    ],
)
def test_timing_of_a_slow_model_ends_early(make_clocked_model: MakeClockedModel, call: float, sizes: list[int]) -> None:
    """A slow model is timed within a time limit and only with single rows."""
    model = make_clocked_model(call=call, row=0.0)
    cost = CallCost.measure(model.predict, [1.0])
    assert model.sizes == sizes
    assert [cost.call_seconds, cost.row_seconds] == pytest.approx([call, 0.0])


def test_model_is_timed_with_copies_of_the_given_row() -> None:
    """A model is timed only with copies of the row that it is given."""
    model = GatedModel()
    CallCost.measure(model.predict, [7.0])
    assert {number for call in model.calls for number in call} == {7.0}


def test_failed_warm_up_is_not_repeated() -> None:
    """An exception of the model's first call is raised, and the model is not called again."""
    model = GatedModel()
    with pytest.raises(ValueError, match="poison"):
        CallCost.measure(model.predict, [POISON])
    assert model.calls == [[POISON]]


async def warmed_up_batcher(model: ClockedModel, executor: ThreadPoolExecutor, max_batch_rows: int = 1000) -> Batcher:
    batcher = Batcher(model.predict, executor, max_batch_rows=max_batch_rows, max_pending=10_000)
    await batcher.warm_up([0.0])
    assert set(model.threads) == {executor.submit(threading.get_ident).result()}
    assert batcher.pending == 0
    model.forget_calls()
    return batcher


async def test_fast_call_runs_in_the_loop(make_clocked_model: MakeClockedModel, executor: ThreadPoolExecutor) -> None:
    """The calls of a model that was measured to be fast run in the event loop's thread."""
    model = make_clocked_model(call=0.001, row=0.0)
    batcher = await warmed_up_batcher(model, executor)
    for number in (1, 2):
        assert await labels(batcher.submit(rows_of(number))) == [number]
    assert model.threads == [threading.get_ident()] * 2
    assert batcher.call_seconds == 0


async def test_slow_call_runs_in_the_thread(make_clocked_model: MakeClockedModel, executor: ThreadPoolExecutor) -> None:
    """The calls of a model that was measured to be slow run in the executor's thread."""
    model = make_clocked_model(call=2 * INLINE_LIMIT_SECONDS, row=0.0)
    batcher = await warmed_up_batcher(model, executor)
    for number in (1, 2):
        assert await labels(batcher.submit(rows_of(number))) == [number]
    assert len(model.threads) == 2
    assert threading.get_ident() not in model.threads


@pytest.mark.parametrize(
    ("sizes", "in_loop"), [([1], True), ([40], True), ([60], False), ([20, 20], True), ([30, 30], False)]
)
async def test_number_of_rows_decides_where_a_call_runs(
    make_clocked_model: MakeClockedModel, executor: ThreadPoolExecutor, sizes: list[int], in_loop: bool
) -> None:
    """A batch of a fast model runs in the thread if its number of rows would block the event loop for too long."""
    model = make_clocked_model(call=INLINE_LIMIT_SECONDS / 5, row=INLINE_LIMIT_SECONDS / 60)
    batcher = await warmed_up_batcher(model, executor)
    for _ in range(2):  # loop or thread is chosen for each call anew
        answers = [batcher.submit(rows_of(*range(size))) for size in sizes]
        assert [await labels(answer) for answer in answers] == [list(range(size)) for size in sizes]
        lone = batcher.submit(rows_of(1))
        assert await labels(lone) == [1]
    assert model.sizes == [sum(sizes), 1] * 2
    assert [thread == threading.get_ident() for thread in model.threads] == [in_loop, True] * 2


class RecordingObserver:
    """An observer that records all events."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.waits: list[float] = []
        self.calls: list[int] = []

    def request_refused(self, reason: str) -> None:
        self.refusals.append(reason)

    def requests_dequeued(self, seconds: Sequence[float]) -> None:
        self.waits.extend(seconds)

    def predict_called(self, rows: int, seconds: float) -> None:
        assert seconds > 0
        self.calls.append(rows)


async def test_observer_receives_each_call_and_wait(
    model: GatedModel, executor: ThreadPoolExecutor, cost: CallCost
) -> None:
    """An observer gets each call, also a failed one, and one wait per request, but no warm-up or cancelled request."""
    observer = RecordingObserver()
    batcher = Batcher(model.predict, executor, max_batch_rows=4, max_pending=6, observer=observer)
    await batcher.warm_up([1.0])
    batcher._cost = cost
    batcher.submit(rows_of(0)).cancel()
    answers = [batcher.submit(rows_of(*numbers)) for numbers in ((1,), (POISON,), (3,))]
    await asyncio.gather(*answers, return_exceptions=True)
    assert observer.calls == [3, 1, 1, 1]
    assert len(observer.waits) == 3
    assert all(0 < wait < TIMEOUT_SECONDS for wait in observer.waits)
    assert await labels(batcher.submit(rows_of(*range(6)))) == list(range(6))
    assert observer.calls[4:] == [4, 2]
    assert len(observer.waits) == 4
    assert observer.refusals == []


async def test_observer_receives_the_reason_of_refusals(model: GatedModel, executor: ThreadPoolExecutor) -> None:
    """An observer gets the reason of each refusal, except of requests that were cancelled before."""
    observer = RecordingObserver()
    batcher = Batcher(model.predict, executor, max_batch_rows=4, max_pending=6, observer=observer)
    running = await model.block(batcher)
    waiting = [batcher.submit(rows_of(1)) for _ in range(6)]
    with pytest.raises(QueueFull):
        batcher.submit(rows_of(2))
    assert observer.refusals == ["full"]
    waiting[0].cancel()
    batcher.close()
    with pytest.raises(Draining):
        batcher.submit(rows_of(2))
    model.open.set()
    assert await labels(running) == [0]
    results = await asyncio.gather(*waiting[1:], return_exceptions=True)
    assert all(isinstance(result, Draining) for result in results)
    assert observer.refusals == ["full", *["draining"] * 6]


async def test_calls_run_in_thread_without_warm_up(
    make_clocked_model: MakeClockedModel, executor: ThreadPoolExecutor
) -> None:
    """Every call runs in the thread before a warm-up, and after one that failed."""
    model = make_clocked_model(call=0.0, row=0.0)
    batcher = Batcher(model.predict, executor, max_batch_rows=4, max_pending=6)
    assert await labels(batcher.submit(rows_of(1))) == [1]
    with pytest.raises(ValueError, match="poison"):
        await batcher.warm_up([POISON])
    assert await labels(batcher.submit(rows_of(2))) == [2]
    assert len(model.threads) == 3
    assert threading.get_ident() not in model.threads


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_control_flow_exception_in_warm_up_is_an_ordinary_error(error: type[BaseException]) -> None:
    """A model's exception that would end the event loop, a task or the process fails the warm-up as RuntimeError."""

    def predict(_rows: Sequence[Row]) -> Prediction:
        raise error

    async def warm_up(executor: ThreadPoolExecutor) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        async with asyncio.timeout(1):
            await Batcher(predict, executor, max_batch_rows=4, max_pending=6).warm_up([1.0])

    raised: BaseException | None = None
    with ThreadPoolExecutor(max_workers=1) as executor:
        try:
            asyncio.run(warm_up(executor))
        except BaseException as caught:
            raised = caught
    assert isinstance(raised, RuntimeError)


async def test_number_of_calls_decides_where_a_large_request_runs(
    make_clocked_model: MakeClockedModel, executor: ThreadPoolExecutor
) -> None:
    """A request that is split into many calls runs in the thread if they would block the event loop for too long."""
    model = make_clocked_model(call=INLINE_LIMIT_SECONDS / 5, row=0.0)
    batcher = await warmed_up_batcher(model, executor, max_batch_rows=1)
    assert await labels(batcher.submit(rows_of(*range(100)))) == list(range(100))
    assert model.sizes == [1] * 100
    assert threading.get_ident() not in model.threads


@pytest.fixture
async def inline_batcher(model: GatedModel, executor: ThreadPoolExecutor) -> Batcher:
    """A batcher whose calls run in the event loop; its model must stay open."""
    batcher = Batcher(model.predict, executor, max_batch_rows=4, max_pending=6)
    batcher._cost = INLINE_COST
    return batcher


async def test_lone_request_is_answered_in_the_next_turn(model: GatedModel, inline_batcher: Batcher) -> None:
    """A lone request of a fast model is answered after one turn of the event loop, and after another it is idle."""
    for number in (1, 2):
        answer = inline_batcher.submit(rows_of(number))
        assert inline_batcher.pending == 1
        assert not answer.done()
        await asyncio.sleep(0)
        assert answer.done()
        assert answer.result() == Prediction([number], [number / 100])
        assert inline_batcher.pending == 0
        await asyncio.sleep(0)
        assert not inline_batcher._busy
    assert model.calls == [[1], [2]]


async def test_loop_handles_other_events_between_calls(model: GatedModel, inline_batcher: Batcher) -> None:
    """The event loop has a turn between two calls, and requests submitted in it join the next call."""
    for numbers in ((1, 2, 3), (4, 5)):
        inline_batcher.submit(rows_of(*numbers))
    await asyncio.sleep(0)
    assert model.calls == [[1, 2, 3]]
    assert inline_batcher.pending == 2
    inline_batcher.submit(rows_of(6))
    await asyncio.sleep(0)
    assert model.calls == [[1, 2, 3], [4, 5, 6]]
    assert inline_batcher.pending == 0


async def test_failed_call_in_the_loop_is_retried_row_by_row(model: GatedModel, inline_batcher: Batcher) -> None:
    """Requests of a failed call in the event loop are retried one by one, before later requests."""
    first, poisoned, last = (inline_batcher.submit(rows_of(number)) for number in (1, POISON, 3))
    await asyncio.sleep(0)
    assert model.calls == [[1, POISON, 3]]
    assert inline_batcher.pending == 3
    later = [inline_batcher.submit(rows_of(number)) for number in (4, 5)]
    for _ in range(4):
        assert not all(answer.done() for answer in later)
        await asyncio.sleep(0)
    assert model.calls == [[1, POISON, 3], [1], [POISON], [3], [4, 5]]
    assert isinstance(poisoned.exception(), ValueError)
    assert [answer.result().labels for answer in (first, last, *later)] == [[1], [3], [4], [5]]


async def test_cancelled_requests_are_not_predicted_in_the_loop(model: GatedModel, inline_batcher: Batcher) -> None:
    """Requests that are cancelled before their call are not predicted, and without others no call is made."""
    first, cancelled, last = (inline_batcher.submit(rows_of(number)) for number in (1, 2, 3))
    cancelled.cancel()
    assert [await labels(answer) for answer in (first, last)] == [[1], [3]]
    inline_batcher.submit(rows_of(4)).cancel()
    for _ in range(2):
        await asyncio.sleep(0)
    assert inline_batcher.pending == 0
    assert await labels(inline_batcher.submit(rows_of(5))) == [5]
    assert model.calls == [[1, 3], [5]]


async def test_cancelled_requests_are_not_retried_after_failure(model: GatedModel, inline_batcher: Batcher) -> None:
    """A request that is cancelled after its shared call failed is not retried."""
    answers = [inline_batcher.submit(rows_of(number)) for number in (1, POISON, 3)]
    await asyncio.sleep(0)
    answers[0].cancel()
    answers[1].cancel()
    assert await labels(answers[2]) == [3]
    assert model.calls == [[1, POISON, 3], [3]]
    assert inline_batcher.pending == 0


async def test_close_between_calls_refuses_waiting_requests(model: GatedModel, inline_batcher: Batcher) -> None:
    """Closing the batcher between two calls in the event loop refuses waiting requests and makes no more calls."""
    answered = inline_batcher.submit(rows_of(1, 2, 3))
    waiting = inline_batcher.submit(rows_of(4, 5))
    await asyncio.sleep(0)
    inline_batcher.close()
    assert answered.result().labels == [1, 2, 3]
    with pytest.raises(Draining):
        await labels(waiting)
    for _ in range(2):
        await asyncio.sleep(0)
    assert model.calls == [[1, 2, 3]]
    assert (inline_batcher.pending, inline_batcher.call_seconds) == (0, 0)


async def test_close_after_a_failed_call_refuses_its_retries(model: GatedModel, inline_batcher: Batcher) -> None:
    """Requests that wait for their retry after a failed call are refused when the batcher is closed."""
    answers = [inline_batcher.submit(rows_of(number)) for number in (1, POISON)]
    await asyncio.sleep(0)
    inline_batcher.close()
    for answer in answers:
        with pytest.raises(Draining):
            await labels(answer)
    for _ in range(2):
        await asyncio.sleep(0)
    assert model.calls == [[1, POISON]]
    assert inline_batcher.pending == 0


async def test_close_during_a_failing_call_refuses_its_requests(model: GatedModel, batcher: Batcher) -> None:
    """Requests of a batch that fails after the batcher is closed are refused, because any of them may be at fault."""
    valid = batcher.submit(rows_of(1))
    poisoned = await model.block(batcher, POISON)  # submitted in the same turn
    batcher.close()
    model.open.set()
    for answer in (valid, poisoned):
        with pytest.raises(Draining):
            await labels(answer)
    assert model.calls == [[1, POISON]]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=12),
    max_batch_rows=st.integers(1, 7),
    cancelled=st.sets(st.integers(0, 11)),
    # With the last cost, only small calls run in the loop.
    cost=st.sampled_from([INLINE_COST, THREAD_COST, CallCost(0.0, INLINE_LIMIT_SECONDS / 4)]),
)
def test_each_request_gets_the_labels_of_its_own_rows(
    sizes: Sequence[int], max_batch_rows: int, cancelled: set[int], cost: CallCost
) -> None:
    """Each request gets the labels of its own rows, whatever the sizes and whichever requests are cancelled."""
    model = GatedModel()
    starts = np.cumsum([0, *sizes]).tolist()
    requests = [[float(n) for n in range(start, start + size)] for start, size in zip(starts, sizes, strict=False)]

    async def answers() -> list[list[float]]:
        with ThreadPoolExecutor(max_workers=1) as executor:
            batcher = Batcher(model.predict, executor, max_batch_rows=max_batch_rows, max_pending=1000)
            batcher._cost = cost
            waiting = [batcher.submit(rows_of(*numbers)) for numbers in requests]
            for i, answer in enumerate(waiting):
                if i in cancelled:
                    answer.cancel()
            answered = [await labels(answer) for answer in waiting if not answer.cancelled()]
            await asyncio.sleep(0)
            assert batcher.pending == 0
            return answered

    kept = [numbers for i, numbers in enumerate(requests) if i not in cancelled]
    assert asyncio.run(answers()) == kept
    assert [number for call in model.calls for number in call] == [number for numbers in kept for number in numbers]
    assert all(1 <= len(call) <= max_batch_rows for call in model.calls)


async def test_very_slow_call_in_the_loop_moves_calls_to_the_thread(
    make_clocked_model: MakeClockedModel, executor: ThreadPoolExecutor
) -> None:
    """After a call in the event loop that took more than ten times the limit, 1,000 calls run in the thread."""
    model = make_clocked_model(call=INLINE_LIMIT_SECONDS / 10, row=0.0)
    batcher = await warmed_up_batcher(model, executor)
    loop_thread = threading.get_ident()
    model.now, fast_call_seconds = 0.0, model._call
    model._call = 11 * INLINE_LIMIT_SECONDS
    await labels(batcher.submit(rows_of(1)))
    model._call = fast_call_seconds
    for _ in range(1001):
        await labels(batcher.submit(rows_of(1)))
    assert [thread == loop_thread for thread in model.threads] == [True, *[False] * 1000, True]
