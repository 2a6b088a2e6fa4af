"""The queue of one worker, with fake models that record their calls, wait at a gate, or take a made-up time."""

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
from server.inference.batcher import INLINE, Batcher, Pace, PredictCall
from server.inference.rows import Prediction, Row

pytestmark = pytest.mark.anyio

POISON = -1.0
PATIENCE = 20  # seconds until a test that hangs fails instead
IN_LOOP, IN_THREAD = Pace(0.0, 0.0), Pace(float("inf"), 0.0)


class Gate:
    """A model whose label is the row's own number. While shut, a predict call waits in it."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.open = threading.Event()
        self.open.set()
        self._entered = threading.Event()

    def predict(self, rows: Sequence[Row]) -> Prediction:
        numbers = numbers_of(rows)
        self.calls.append(numbers)
        self._entered.set()
        assert self.open.wait(PATIENCE), "nobody opened the gate"
        if POISON in numbers:
            raise ValueError("poison")
        return Prediction(numbers, [number / 100 for number in numbers])

    async def hold(self, batcher: Batcher, number: float = 0) -> asyncio.Future[Prediction]:
        """Shut the gate behind a lone request that is in its predict call when this returns."""
        self.open.clear()
        self._entered.clear()
        answer = batcher.submit(rows_of(number))
        assert await asyncio.to_thread(self._entered.wait, PATIENCE)
        return answer


def rows_of(*numbers: float) -> list[Row]:
    return [[number] for number in numbers]


def numbers_of(rows: Sequence[Row]) -> list[float]:
    return [cast(float, number) for (number,) in rows]


async def labels(answer: asyncio.Future[Prediction]) -> list[float]:
    async with asyncio.timeout(PATIENCE):
        return list((await answer).labels)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def batcher(gate: Gate, executor: ThreadPoolExecutor) -> Batcher:
    """One that never timed its model, and so calls it in the thread, where it can be held."""
    return Batcher(gate.predict, executor, max_batch_rows=4, max_pending=6)


@pytest.fixture(params=[IN_LOOP, IN_THREAD], ids=["loop", "thread"])
def pace(request: pytest.FixtureRequest) -> Pace:
    """What a model was found to take, so that its calls run in the one place or in the other."""
    found: Pace = request.param
    return found


Make = Callable[[PredictCall], Batcher]


@pytest.fixture
def make(executor: ThreadPoolExecutor, pace: Pace) -> Make:
    def make(predict: PredictCall) -> Batcher:
        batcher = Batcher(predict, executor, max_batch_rows=4, max_pending=6)
        batcher._pace = pace
        return batcher

    return make


@pytest.fixture
async def either(gate: Gate, make: Make) -> Batcher:
    """One over the gate, which must stay open: its calls run in the loop or in the thread."""
    return make(gate.predict)


async def test_lone_request_goes_at_once(gate: Gate, batcher: Batcher) -> None:
    """A lone request is taken in the next turn of the loop, with no timer, and predicted alone."""
    answer = batcher.submit(rows_of(1))
    assert batcher.pending == 1
    await asyncio.sleep(0)
    assert batcher.pending == 0
    assert await labels(answer) == [1]
    assert gate.calls == [[1]]
    assert answer.result().confidences == [0.01]


async def test_one_turn_is_one_call(gate: Gate, either: Batcher) -> None:
    """Requests that arrive in the same turn of the loop share a call, and each gets its own part."""
    first, second = either.submit(rows_of(1)), either.submit(rows_of(2, 3))
    assert await labels(first) == [1]
    assert await labels(second) == [2, 3]
    assert gate.calls == [[1, 2, 3]]


async def test_waiting_requests_go_together(gate: Gate, batcher: Batcher) -> None:
    """What arrives while a call runs waits for it to end, and is taken by the next call in order."""
    held = await gate.hold(batcher)
    answers = [batcher.submit(rows_of(number)) for number in (1, 2, 3)]
    assert batcher.pending == 3
    gate.open.set()
    assert await labels(held) == [0]
    assert [await labels(answer) for answer in answers] == [[1], [2], [3]]
    assert gate.calls == [[0], [1, 2, 3]]
    assert batcher.pending == 0


async def test_next_request_after_a_rest(gate: Gate, either: Batcher) -> None:
    """A batcher that has run dry starts again with the next request."""
    for number in (1, 2, 3):
        assert await labels(either.submit(rows_of(number))) == [number]
    assert gate.calls == [[1], [2], [3]]


async def test_most_rows_in_a_call(gate: Gate, batcher: Batcher) -> None:
    """A call takes at most MAX_BATCH_ROWS rows, splits no request over two calls and overtakes none."""
    held = await gate.hold(batcher)
    answers = [batcher.submit(rows) for rows in (rows_of(1, 2, 3), rows_of(4, 5), rows_of(6))]
    gate.open.set()
    assert [await labels(answer) for answer in [held, *answers]] == [[0], [1, 2, 3], [4, 5], [6]]
    assert gate.calls == [[0], [1, 2, 3], [4, 5, 6]]


async def test_large_request_is_split_and_answered_completely(gate: Gate, either: Batcher) -> None:
    """A request of more than MAX_BATCH_ROWS rows is predicted in pieces and answered whole."""
    answer = either.submit(rows_of(1, 2, 3, 4, 5, 6))
    assert await labels(answer) == [1, 2, 3, 4, 5, 6]
    assert answer.result().confidences == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    assert gate.calls == [[1, 2, 3, 4], [5, 6]]
    assert either.pending == 0


async def test_full_queue_refuses_until_there_is_room(gate: Gate, batcher: Batcher) -> None:
    """Past MAX_PENDING waiting rows a request is refused at once; afterwards there is room again."""
    held = await gate.hold(batcher)
    waiting = batcher.submit(rows_of(1, 2, 3, 4, 5))
    with pytest.raises(QueueFull, match="5 rows are waiting, at most 6 may"):
        batcher.submit(rows_of(6, 7))
    last = batcher.submit(rows_of(8))
    assert batcher.pending == 6
    gate.open.set()
    assert [await labels(answer) for answer in (held, waiting, last)] == [[0], [1, 2, 3, 4, 5], [8]]
    assert await labels(batcher.submit(rows_of(1, 2, 3, 4, 5, 6))) == [1, 2, 3, 4, 5, 6]
    assert batcher.pending == 0


async def test_cancelled_waiting_request_is_not_predicted(gate: Gate, batcher: Batcher) -> None:
    """A request that was cancelled while it waited costs no prediction, and its neighbours keep their own answers."""
    held = await gate.hold(batcher)
    first, gone, last = (batcher.submit(rows_of(number)) for number in (1, 2, 3))
    gone.cancel()
    gate.open.set()
    assert [await labels(answer) for answer in (held, first, last)] == [[0], [1], [3]]
    assert gate.calls == [[0], [1, 3]]
    assert batcher.pending == 0


async def test_batch_without_callers_is_not_predicted(gate: Gate, batcher: Batcher) -> None:
    """When everybody who waited has left, there is no call at all, and the next request starts one."""
    held = await gate.hold(batcher)
    for number in (1, 2):
        batcher.submit(rows_of(number)).cancel()
    gate.open.set()
    assert await labels(held) == [0]
    assert await labels(batcher.submit(rows_of(3))) == [3]
    assert gate.calls == [[0], [3]]
    assert batcher.pending == 0


async def test_cancelling_a_running_call_affects_no_other_request(gate: Gate, batcher: Batcher) -> None:
    """A request that is cancelled while its call runs stops nobody, whether the call succeeds or fails."""
    for number in (0.0, POISON):
        held = await gate.hold(batcher, number)
        held.cancel()
        gate.open.set()
        assert await labels(batcher.submit(rows_of(1))) == [1]
    assert gate.calls == [[0], [1], [POISON], [1]]
    assert batcher.pending == 0


async def test_poison_fails_alone(gate: Gate, either: Batcher) -> None:
    """A request that breaks the call of all fails with the model's error; the others get their answers."""
    answers = [either.submit(rows_of(number)) for number in (1, POISON, 3)]
    late = asyncio.gather(*answers, return_exceptions=True)
    async with asyncio.timeout(PATIENCE):
        first, poisoned, last = await late
    assert isinstance(poisoned, ValueError)
    assert [first, last] == [Prediction([1], [0.01]), Prediction([3], [0.03])]
    assert gate.calls == [[1, POISON, 3], [1], [POISON], [3]]
    assert either.pending == 0


async def test_retries_stay_in_front(gate: Gate, batcher: Batcher) -> None:
    """After a broken call its requests are tried alone, before whatever came later, which is batched again."""
    held = await gate.hold(batcher)
    broken = [batcher.submit(rows_of(number)) for number in (1, POISON)]
    gate.open.set()
    assert await labels(held) == [0]
    later = [batcher.submit(rows_of(number)) for number in (3, 4)]
    assert [await labels(answer) for answer in (broken[0], *later)] == [[1], [3], [4]]
    with pytest.raises(ValueError, match="poison"):
        await labels(broken[1])
    assert gate.calls == [[0], [1, POISON], [1], [POISON], [3, 4]]
    assert batcher.pending == 0


@pytest.mark.parametrize("answered", [0, 1, 3])
async def test_wrong_number_of_labels(make: Make, answered: int) -> None:
    """A model that answers fewer or more labels than rows is an error for the request, never a shifted answer."""
    batcher = make(lambda _: Prediction([7] * answered, None))
    with pytest.raises(RuntimeError, match=f"the model answered {answered} labels for 2 rows"):
        await labels(batcher.submit(rows_of(1, 2)))
    assert batcher.pending == 0


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_control_flow_exception_fails_only_its_request(make: Make, error: type[BaseException]) -> None:
    """What would end a loop, a task or the process fails just its request, and leaves the batcher running."""

    def predict(rows: Sequence[Row]) -> Prediction:
        if POISON in numbers_of(rows):
            raise error
        return Prediction(numbers_of(rows), None)

    batcher = make(predict)
    answers = [batcher.submit(rows_of(number)) for number in (1, POISON, 3)]
    assert await labels(answers[0]) == [1]
    with pytest.raises(RuntimeError, match=f"the model raised {error.__name__}"):
        await labels(answers[1])
    assert await labels(answers[2]) == [3]
    with pytest.raises(RuntimeError, match=f"the model raised {error.__name__}"):
        await labels(batcher.submit(rows_of(POISON)))
    assert await labels(batcher.submit(rows_of(1))) == [1]


async def test_model_without_probabilities_gives_no_confidences(make: Make) -> None:
    """A model without probabilities gives none, in pieces as well as in parts."""
    batcher = make(lambda rows: Prediction([1] * len(rows), None))
    answers = [batcher.submit(rows_of(*numbers)) for numbers in ((1, 2), (3,), (4,))]
    larger = make(lambda rows: Prediction([1] * len(rows), None)).submit(rows_of(1, 2, 3, 4, 5))
    assert await larger == Prediction([1] * 5, None)
    assert [await answer for answer in answers] == [
        Prediction([1, 1], None),
        Prediction([1], None),
        Prediction([1], None),
    ]


async def test_close_refuses_waiting_and_new_requests(gate: Gate, batcher: Batcher) -> None:
    """Closing refuses those that wait and those that come; the call that runs still gives its answer."""
    held = await gate.hold(batcher)
    waiting, gone = batcher.submit(rows_of(1)), batcher.submit(rows_of(2))
    gone.cancel()
    batcher.close()
    assert batcher.pending == 0
    with pytest.raises(Draining):
        await labels(waiting)
    with pytest.raises(Draining):
        batcher.submit(rows_of(3))
    gate.open.set()
    assert await labels(held) == [0]
    assert gate.calls == [[0]]
    assert batcher.pending == 0


async def test_close_before_the_first_turn(gate: Gate, either: Batcher) -> None:
    """A request submitted and refused in the same turn of the loop costs no call."""
    waiting = either.submit(rows_of(1))
    either.close()
    with pytest.raises(Draining):
        await labels(waiting)
    assert gate.calls == []


async def test_loop_stays_free(gate: Gate, batcher: Batcher) -> None:
    """The event loop runs on while a predict call blocks; it is the loop itself that ends the call."""
    held = await gate.hold(batcher)
    turns = 0
    while turns < 100:
        await asyncio.sleep(0)
        turns += 1
    assert not held.done()
    asyncio.get_running_loop().call_soon(gate.open.set)
    assert await labels(held) == [0]


class Timed:
    """A model on a clock of its own: each call takes as long as it is said to, and is recorded with its thread."""

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

    def start_anew(self) -> None:
        self.sizes.clear()
        self.threads.clear()


MakeTimed = Callable[..., Timed]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> MakeTimed:
    """Makes a model, and lets the batcher go by its clock."""

    def timed(call: float, row: float, first: float = 0.0) -> Timed:
        model = Timed(call, row, first)
        monkeypatch.setattr("server.inference.batcher.time", model)
        return model

    return timed


def test_pace_of_a_model(timed: MakeTimed) -> None:
    """A model's costs are those of a call and of each row more, without what its first call makes on demand."""
    model = timed(call=0.002, row=0.0001, first=9.0)
    pace = Pace.measure(model.predict, [1.0])
    assert [pace.call, pace.row] == pytest.approx([0.002, 0.0001])
    assert [pace.seconds(rows, 10) for rows in (1, 2, 10, 11, 20)] == pytest.approx(
        [0.002, 0.0021, 0.0029, 0.0049, 0.0058]
    )
    assert set(model.sizes) == {1, 64}


def test_fastest_call_is_the_one_that_counts(timed: MakeTimed) -> None:
    """What else the machine does during a call is not the model's: of a few calls of a size the fastest counts."""
    model = timed(call=0.001, row=0.0001)
    delays = iter([0.0, 0.03, 0.02, 0.0, 0.01, 0.04, 0.05, 0.0, 0.01, 0.02, 0.04])

    def predict(rows: Sequence[Row]) -> Prediction:
        model.now += next(delays, 0.0)
        return model.predict(rows)

    pace = Pace.measure(predict, [1.0])
    assert [pace.call, pace.row] == pytest.approx([0.001, 0.0001])


def test_many_rows_are_never_cheaper_than_one(timed: MakeTimed) -> None:
    """Where many rows happened to take less than one, a row more costs nothing."""
    pace = Pace.measure(timed(call=0.004, row=-0.00005).predict, [1.0])
    assert [pace.call, pace.row] == pytest.approx([0.004, 0.0])


@pytest.mark.parametrize(
    ("call", "sizes"),
    [
        (10.0, [1, 1]),  # the first call, and the one that is timed
        (0.3, [1, 1]),
        (0.1, [1, 1, 1, 1]),  # the third that is timed ends past the patience
    ],
)
def test_slow_model_is_called_seldom(timed: MakeTimed, call: float, sizes: list[int]) -> None:
    """A model too slow for the loop is called no more once the patience is over, and never with many rows."""
    model = timed(call=call, row=0.0)
    pace = Pace.measure(model.predict, [1.0])
    assert model.sizes == sizes
    assert [pace.call, pace.row] == pytest.approx([call, 0.0])


def test_copies_of_the_row() -> None:
    """A model is timed by copies of the row that it is given, and nothing else."""
    gate = Gate()
    Pace.measure(gate.predict, [7.0])
    assert {number for call in gate.calls for number in call} == {7.0}


def test_failed_warm_up_is_not_repeated() -> None:
    """What a model raises at its first call is raised, and it is not called again."""
    gate = Gate()
    with pytest.raises(ValueError, match="poison"):
        Pace.measure(gate.predict, [POISON])
    assert gate.calls == [[POISON]]


async def warmed_up(model: Timed, executor: ThreadPoolExecutor, max_batch_rows: int = 1000) -> Batcher:
    batcher = Batcher(model.predict, executor, max_batch_rows=max_batch_rows, max_pending=10_000)
    await batcher.warm_up([0.0])
    assert set(model.threads) == {executor.submit(threading.get_ident).result()}
    assert batcher.pending == 0
    model.start_anew()
    return batcher


async def test_quick_call_runs_in_the_loop(timed: MakeTimed, executor: ThreadPoolExecutor) -> None:
    """The calls of a model that was found quick run in the loop's own thread, once it has been timed in the other."""
    model = timed(call=0.001, row=0.0)
    batcher = await warmed_up(model, executor)
    for number in (1, 2):
        assert await labels(batcher.submit(rows_of(number))) == [number]
    assert model.threads == [threading.get_ident()] * 2
    assert batcher.call_seconds == 0


async def test_slow_call_runs_in_the_thread(timed: MakeTimed, executor: ThreadPoolExecutor) -> None:
    """The calls of a model that was found slow run in the executor's thread, and never in the loop's."""
    model = timed(call=2 * INLINE, row=0.0)
    batcher = await warmed_up(model, executor)
    for number in (1, 2):
        assert await labels(batcher.submit(rows_of(number))) == [number]
    assert len(model.threads) == 2
    assert threading.get_ident() not in model.threads


@pytest.mark.parametrize(
    ("sizes", "in_loop"), [([1], True), ([40], True), ([60], False), ([20, 20], True), ([30, 30], False)]
)
async def test_size_of_a_call_decides(
    timed: MakeTimed, executor: ThreadPoolExecutor, sizes: list[int], in_loop: bool
) -> None:
    """So many rows of a quick model that their call would keep the loop too long run in the thread, in one batch."""
    model = timed(call=INLINE / 5, row=INLINE / 60)
    batcher = await warmed_up(model, executor)
    for _ in range(2):  # which of the two is chosen anew for each call
        answers = [batcher.submit(rows_of(*range(size))) for size in sizes]
        assert [await labels(answer) for answer in answers] == [list(range(size)) for size in sizes]
        lone = batcher.submit(rows_of(1))
        assert await labels(lone) == [1]
    assert model.sizes == [sum(sizes), 1] * 2
    assert [thread == threading.get_ident() for thread in model.threads] == [in_loop, True] * 2


class Notes:
    """An observer that writes everything down."""

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


async def test_observer_receives_each_call_and_wait(gate: Gate, executor: ThreadPoolExecutor, pace: Pace) -> None:
    """An observer is told each call, failed or not, and one wait a request; not the warm-up, nor callers that left."""
    notes = Notes()
    batcher = Batcher(gate.predict, executor, max_batch_rows=4, max_pending=6, observer=notes)
    await batcher.warm_up([1.0])
    batcher._pace = pace
    left = batcher.submit(rows_of(0))
    left.cancel()
    answers = [batcher.submit(rows_of(*numbers)) for numbers in ((1,), (POISON,), (3,))]
    await asyncio.gather(*answers, return_exceptions=True)
    assert notes.calls == [3, 1, 1, 1]
    assert len(notes.waits) == 3
    assert all(0 < wait < PATIENCE for wait in notes.waits)
    assert await labels(batcher.submit(rows_of(*range(6)))) == list(range(6))
    assert notes.calls[4:] == [4, 2]
    assert len(notes.waits) == 4
    assert notes.refusals == []


async def test_observer_receives_the_reason_of_refusals(gate: Gate, executor: ThreadPoolExecutor) -> None:
    """An observer is told why a request was not taken, or not kept; of one whose caller has left, nothing."""
    notes = Notes()
    batcher = Batcher(gate.predict, executor, max_batch_rows=4, max_pending=6, observer=notes)
    held = await gate.hold(batcher)
    waiting = [batcher.submit(rows_of(1)) for _ in range(6)]
    with pytest.raises(QueueFull):
        batcher.submit(rows_of(2))
    assert notes.refusals == ["full"]
    waiting[0].cancel()
    batcher.close()
    with pytest.raises(Draining):
        batcher.submit(rows_of(2))
    gate.open.set()
    assert await labels(held) == [0]
    results = await asyncio.gather(*waiting[1:], return_exceptions=True)
    assert all(isinstance(result, Draining) for result in results)
    assert notes.refusals == ["full", *["draining"] * 6]


async def test_calls_run_in_thread_without_warm_up(timed: MakeTimed, executor: ThreadPoolExecutor) -> None:
    """Before a warm-up, and after one that failed, every call runs in the thread."""
    model = timed(call=0.0, row=0.0)
    batcher = Batcher(model.predict, executor, max_batch_rows=4, max_pending=6)
    assert await labels(batcher.submit(rows_of(1))) == [1]
    with pytest.raises(ValueError, match="poison"):
        await batcher.warm_up([POISON])
    assert await labels(batcher.submit(rows_of(2))) == [2]
    assert len(model.threads) == 3
    assert threading.get_ident() not in model.threads


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_control_flow_exception_in_warm_up_is_an_ordinary_error(error: type[BaseException]) -> None:
    """What would end a loop, a task or the process is an error of the warm-up like any other."""

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


async def test_pieces_of_a_large_request_count(timed: MakeTimed, executor: ThreadPoolExecutor) -> None:
    """A request that is predicted in so many pieces that they would keep the loop too long runs in the thread."""
    model = timed(call=INLINE / 5, row=0.0)
    batcher = await warmed_up(model, executor, max_batch_rows=1)
    assert await labels(batcher.submit(rows_of(*range(100)))) == list(range(100))
    assert model.sizes == [1] * 100
    assert threading.get_ident() not in model.threads


@pytest.fixture
async def inline(gate: Gate, executor: ThreadPoolExecutor) -> Batcher:
    """One whose calls run in the loop; the gate must stay open."""
    batcher = Batcher(gate.predict, executor, max_batch_rows=4, max_pending=6)
    batcher._pace = IN_LOOP
    return batcher


async def test_lone_request_is_answered_in_the_next_turn(gate: Gate, inline: Batcher) -> None:
    """A lone request of a quick model has its answer after one turn of the loop; after another the batcher rests."""
    for number in (1, 2):
        answer = inline.submit(rows_of(number))
        assert inline.pending == 1
        assert not answer.done()
        await asyncio.sleep(0)
        assert answer.done()
        assert answer.result() == Prediction([number], [number / 100])
        assert inline.pending == 0
        await asyncio.sleep(0)
        assert not inline._busy
    assert gate.calls == [[1], [2]]


async def test_loop_has_its_turn_between_calls(gate: Gate, inline: Batcher) -> None:
    """Between two calls in the loop all else has a turn, and what was submitted meanwhile goes with the next."""
    for numbers in ((1, 2, 3), (4, 5)):
        inline.submit(rows_of(*numbers))
    await asyncio.sleep(0)
    assert gate.calls == [[1, 2, 3]]
    assert inline.pending == 2
    inline.submit(rows_of(6))
    await asyncio.sleep(0)
    assert gate.calls == [[1, 2, 3], [4, 5, 6]]
    assert inline.pending == 0


async def test_poison_in_the_loop(gate: Gate, inline: Batcher) -> None:
    """After a call in the loop that failed, each of its requests has a call of its own, before any that came later."""
    first, poisoned, last = (inline.submit(rows_of(number)) for number in (1, POISON, 3))
    await asyncio.sleep(0)
    assert gate.calls == [[1, POISON, 3]]
    assert inline.pending == 3
    later = [inline.submit(rows_of(number)) for number in (4, 5)]
    for _ in range(4):
        assert not all(answer.done() for answer in later)
        await asyncio.sleep(0)
    assert gate.calls == [[1, POISON, 3], [1], [POISON], [3], [4, 5]]
    assert isinstance(poisoned.exception(), ValueError)
    assert [answer.result().labels for answer in (first, last, *later)] == [[1], [3], [4], [5]]


async def test_callers_that_left_cost_no_call_in_the_loop(gate: Gate, inline: Batcher) -> None:
    """Whoever leaves before the call costs no prediction; when all have left there is none, and the next one starts."""
    first, gone, last = (inline.submit(rows_of(number)) for number in (1, 2, 3))
    gone.cancel()
    assert [await labels(answer) for answer in (first, last)] == [[1], [3]]
    alone = inline.submit(rows_of(4))
    alone.cancel()
    for _ in range(2):
        await asyncio.sleep(0)
    assert inline.pending == 0
    assert await labels(inline.submit(rows_of(5))) == [5]
    assert gate.calls == [[1, 3], [5]]


async def test_cancelled_requests_are_not_retried_after_failure(gate: Gate, inline: Batcher) -> None:
    """Whoever leaves between a call that failed and its own costs no second one."""
    answers = [inline.submit(rows_of(number)) for number in (1, POISON, 3)]
    await asyncio.sleep(0)
    answers[0].cancel()
    answers[1].cancel()
    assert await labels(answers[2]) == [3]
    assert gate.calls == [[1, POISON, 3], [3]]
    assert inline.pending == 0


async def test_close_between_calls_in_the_loop(gate: Gate, inline: Batcher) -> None:
    """Closing between two calls refuses those that wait, those of a call that failed among them, and calls no more."""
    answered = inline.submit(rows_of(1, 2, 3))
    waiting = inline.submit(rows_of(4, 5))
    await asyncio.sleep(0)
    inline.close()
    assert answered.result().labels == [1, 2, 3]
    with pytest.raises(Draining):
        await labels(waiting)
    for _ in range(2):
        await asyncio.sleep(0)
    assert gate.calls == [[1, 2, 3]]
    assert (inline.pending, inline.call_seconds) == (0, 0)


async def test_close_after_a_broken_call_in_the_loop(gate: Gate, inline: Batcher) -> None:
    """Requests that were to be tried alone are refused when the batcher is closed before."""
    answers = [inline.submit(rows_of(number)) for number in (1, POISON)]
    await asyncio.sleep(0)
    inline.close()
    for answer in answers:
        with pytest.raises(Draining):
            await labels(answer)
    for _ in range(2):
        await asyncio.sleep(0)
    assert gate.calls == [[1, POISON]]
    assert inline.pending == 0


async def test_close_during_a_failing_call_refuses_its_requests(gate: Gate, batcher: Batcher) -> None:
    """Requests of a call that fails after the close are refused, for none of them may have been the guilty one."""
    waiting = batcher.submit(rows_of(1))
    guilty = await gate.hold(batcher, POISON)  # submitted in the same turn
    batcher.close()
    gate.open.set()
    for answer in (waiting, guilty):
        with pytest.raises(Draining):
            await labels(answer)
    assert gate.calls == [[1, POISON]]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=12),
    most=st.integers(1, 7),
    gone=st.sets(st.integers(0, 11)),
    pace=st.sampled_from([IN_LOOP, IN_THREAD, Pace(0.0, INLINE / 4)]),  # the last: small calls in the loop only
)
def test_everybody_gets_their_own(sizes: Sequence[int], most: int, gone: set[int], pace: Pace) -> None:
    """Whatever the sizes and whoever leaves, each gets the answer to its own rows, in calls that are not too large."""
    gate = Gate()
    starts = np.cumsum([0, *sizes]).tolist()
    wanted = [[float(n) for n in range(start, start + size)] for start, size in zip(starts, sizes, strict=False)]

    async def answers() -> list[list[float]]:
        with ThreadPoolExecutor(max_workers=1) as executor:
            batcher = Batcher(gate.predict, executor, max_batch_rows=most, max_pending=1000)
            batcher._pace = pace
            waiting = [batcher.submit(rows_of(*numbers)) for numbers in wanted]
            for i, answer in enumerate(waiting):
                if i in gone:
                    answer.cancel()
            got = [await labels(answer) for answer in waiting if not answer.cancelled()]
            await asyncio.sleep(0)
            assert batcher.pending == 0
            return got

    kept = [numbers for i, numbers in enumerate(wanted) if i not in gone]
    assert asyncio.run(answers()) == kept
    assert [number for call in gate.calls for number in call] == [number for numbers in kept for number in numbers]
    assert all(1 <= len(call) <= most for call in gate.calls)


async def test_slow_call_in_the_loop_makes_wary(timed: MakeTimed, executor: ThreadPoolExecutor) -> None:
    """After a call in the loop that took ten times as long as one may, the next thousand run in the thread."""
    model = timed(call=INLINE / 10, row=0.0)
    batcher = await warmed_up(model, executor)
    own = threading.get_ident()
    model.now, slow = 0.0, model._call
    model._call = 11 * INLINE
    await labels(batcher.submit(rows_of(1)))
    model._call = slow
    for _ in range(1001):
        await labels(batcher.submit(rows_of(1)))
    assert [thread == own for thread in model.threads] == [True, *[False] * 1000, True]
