"""The queue of one worker, with a fake predict that records its calls and can be held at a gate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.batching import Batcher
from server.errors import Draining, QueueFull
from server.rows import Prediction, Rows

pytestmark = pytest.mark.anyio

POISON = -1.0
PATIENCE = 20  # seconds until a test that hangs fails instead


class Gate:
    """A model whose label is the row's own number. While shut, a predict call waits in it."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.open = threading.Event()
        self.open.set()
        self._entered = threading.Event()

    def predict(self, rows: Rows) -> Prediction:
        numbers = rows.numbers[:, 0].tolist()
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


def rows_of(*numbers: float) -> Rows:
    return Rows(np.array([[number] for number in numbers]), np.empty((len(numbers), 0), dtype=np.object_))


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
def batcher(gate: Gate, executor: ThreadPoolExecutor) -> Batcher:
    return Batcher(gate.predict, executor, max_batch_rows=4, max_pending=6)


async def test_lone_request_goes_at_once(gate: Gate, batcher: Batcher) -> None:
    """A lone request is taken in the next turn of the loop, with no timer, and predicted alone."""
    answer = batcher.submit(rows_of(1))
    assert batcher.pending == 1
    await asyncio.sleep(0)
    assert batcher.pending == 0
    assert await labels(answer) == [1]
    assert gate.calls == [[1]]
    assert answer.result().confidences == [0.01]


async def test_one_turn_is_one_call(gate: Gate, batcher: Batcher) -> None:
    """Requests that arrive in the same turn of the loop share a call, and each gets its own part."""
    first, second = batcher.submit(rows_of(1)), batcher.submit(rows_of(2, 3))
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


async def test_next_request_after_a_rest(gate: Gate, batcher: Batcher) -> None:
    """A batcher that has run dry starts again with the next request."""
    for number in (1, 2, 3):
        assert await labels(batcher.submit(rows_of(number))) == [number]
    assert gate.calls == [[1], [2], [3]]


async def test_most_rows_in_a_call(gate: Gate, batcher: Batcher) -> None:
    """A call takes at most MAX_BATCH_ROWS rows, splits no request over two calls and overtakes none."""
    held = await gate.hold(batcher)
    answers = [batcher.submit(rows) for rows in (rows_of(1, 2, 3), rows_of(4, 5), rows_of(6))]
    gate.open.set()
    assert [await labels(answer) for answer in [held, *answers]] == [[0], [1, 2, 3], [4, 5], [6]]
    assert gate.calls == [[0], [1, 2, 3], [4, 5, 6]]


async def test_large_request(gate: Gate, batcher: Batcher) -> None:
    """A request of more than MAX_BATCH_ROWS rows is predicted in pieces and answered whole."""
    answer = batcher.submit(rows_of(1, 2, 3, 4, 5, 6))
    assert await labels(answer) == [1, 2, 3, 4, 5, 6]
    assert answer.result().confidences == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    assert gate.calls == [[1, 2, 3, 4], [5, 6]]
    assert batcher.pending == 0


async def test_full_queue(gate: Gate, batcher: Batcher) -> None:
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


async def test_caller_that_left(gate: Gate, batcher: Batcher) -> None:
    """A request that was cancelled while it waited costs no prediction, and its neighbours keep their own answers."""
    held = await gate.hold(batcher)
    first, gone, last = (batcher.submit(rows_of(number)) for number in (1, 2, 3))
    gone.cancel()
    gate.open.set()
    assert [await labels(answer) for answer in (held, first, last)] == [[0], [1], [3]]
    assert gate.calls == [[0], [1, 3]]
    assert batcher.pending == 0


async def test_all_callers_left(gate: Gate, batcher: Batcher) -> None:
    """When everybody who waited has left, there is no call at all, and the next request starts one."""
    held = await gate.hold(batcher)
    for number in (1, 2):
        batcher.submit(rows_of(number)).cancel()
    gate.open.set()
    assert await labels(held) == [0]
    assert await labels(batcher.submit(rows_of(3))) == [3]
    assert gate.calls == [[0], [3]]
    assert batcher.pending == 0


async def test_caller_that_left_during_its_call(gate: Gate, batcher: Batcher) -> None:
    """A request that is cancelled while its call runs stops nobody, whether the call succeeds or fails."""
    for number in (0.0, POISON):
        held = await gate.hold(batcher, number)
        held.cancel()
        gate.open.set()
        assert await labels(batcher.submit(rows_of(1))) == [1]
    assert gate.calls == [[0], [1], [POISON], [1]]
    assert batcher.pending == 0


async def test_poison_fails_alone(gate: Gate, batcher: Batcher) -> None:
    """A request that breaks the call of all fails with the model's error; the others get their answers."""
    answers = [batcher.submit(rows_of(number)) for number in (1, POISON, 3)]
    late = asyncio.gather(*answers, return_exceptions=True)
    async with asyncio.timeout(PATIENCE):
        first, poisoned, last = await late
    assert isinstance(poisoned, ValueError)
    assert [first, last] == [Prediction([1], [0.01]), Prediction([3], [0.03])]
    assert gate.calls == [[1, POISON, 3], [1], [POISON], [3]]
    assert batcher.pending == 0


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
async def test_wrong_number_of_labels(executor: ThreadPoolExecutor, answered: int) -> None:
    """A model that answers fewer or more labels than rows is an error for the request, never a shifted answer."""
    batcher = Batcher(lambda _: Prediction([7] * answered, None), executor, max_batch_rows=4, max_pending=6)
    with pytest.raises(RuntimeError, match=f"the model answered {answered} labels for 2 rows"):
        await labels(batcher.submit(rows_of(1, 2)))
    assert batcher.pending == 0


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_model_that_raises_what_means_something_to_the_loop(
    executor: ThreadPoolExecutor, error: type[BaseException]
) -> None:
    """What would end a loop, a task or the process fails just its request, and leaves the batcher running."""

    def predict(rows: Rows) -> Prediction:
        if POISON in rows.numbers:
            raise error
        return Prediction([1], None)

    batcher = Batcher(predict, executor, max_batch_rows=4, max_pending=6)
    with pytest.raises(RuntimeError, match=f"the model raised {error.__name__}"):
        await labels(batcher.submit(rows_of(POISON)))
    assert await labels(batcher.submit(rows_of(1))) == [1]


async def test_no_confidences(executor: ThreadPoolExecutor) -> None:
    """A model without probabilities gives none, in pieces as well as in parts."""
    batcher = Batcher(lambda rows: Prediction([1] * len(rows), None), executor, max_batch_rows=2, max_pending=6)
    answers = [batcher.submit(rows_of(1, 2, 3)), batcher.submit(rows_of(4)), batcher.submit(rows_of(5))]
    assert [await answer for answer in answers] == [
        Prediction([1, 1, 1], None),
        Prediction([1], None),
        Prediction([1], None),
    ]


async def test_close(gate: Gate, batcher: Batcher) -> None:
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


async def test_close_before_the_first_turn(gate: Gate, batcher: Batcher) -> None:
    """A request submitted and refused in the same turn of the loop costs no call."""
    waiting = batcher.submit(rows_of(1))
    batcher.close()
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


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), max_size=12), most=st.integers(1, 7), gone=st.sets(st.integers(0, 11)))
def test_everybody_gets_their_own(sizes: Sequence[int], most: int, gone: set[int]) -> None:
    """Whatever the sizes and whoever leaves, each gets the answer to its own rows, in calls that are not too large."""
    gate = Gate()
    starts = np.cumsum([0, *sizes]).tolist()
    wanted = [[float(n) for n in range(start, start + size)] for start, size in zip(starts, sizes, strict=False)]

    async def answers() -> list[list[float]]:
        with ThreadPoolExecutor(max_workers=1) as executor:
            batcher = Batcher(gate.predict, executor, max_batch_rows=most, max_pending=1000)
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
