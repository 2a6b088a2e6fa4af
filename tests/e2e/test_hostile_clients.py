"""Hostile clients against a stack that others ask for predictions. `tests.support.stress.siege` times more."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest

from deploy.backends.local.nginx import STATUS_SOCKET
from tests.support.raw_http import ask, short_path
from tests.support.stacks.local import Stack
from tests.support.stress.hostile import run
from tests.support.stress.hostile.malformed import MALFORMED
from tests.support.stress.hostile.wire import Got
from tests.support.stress.load import Load
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("stack")

CLIENTS = 300
# As long as Nginx waits for the next byte, and some more: those whom it hangs up on are gone by then (seconds).
LONG, BRIEF = 14.0, 4.0


@pytest.fixture(scope="module")
def attackers() -> Iterator[ProcessPoolExecutor]:
    """A process for the hostile ones, so that they do not keep the others of this one waiting."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(autouse=True)
def nothing_left(stack: Stack) -> Iterator[None]:
    """After an attack Nginx lets go of its connections, the workers are those of before, and hold no more memory."""
    before = memory(stack)
    yield
    wait_until(
        lambda: connections(stack) <= 5,
        seconds=30,
        pause=0.2,
        describe=lambda: f"Nginx holds {connections(stack)} connections",
    )
    after = memory(stack)
    assert after.keys() == before.keys()
    assert sum(after.values()) - sum(before.values()) < 400_000_000


def memory(stack: Stack) -> dict[int, int]:
    """What each worker of the replicas has for itself alone (bytes), by process id."""
    masters = (psutil.Process(pid) for name, pid in stack.pids().items() if name.startswith("replica"))
    return {worker.pid: worker.memory_full_info().uss for master in masters for worker in master.children()}


def connections(stack: Stack) -> int:
    """How many clients' connections Nginx holds, this question's among them."""
    with short_path(stack.var / STATUS_SOCKET) as socket:
        told = re.search(r"Active connections: (\d+)", ask(socket, "GET /stub_status")[2])
    assert told is not None
    return int(told[1])


def attacked(
    stack: Stack, attackers: ProcessPoolExecutor, name: str, seconds: float = BRIEF, count: int = CLIENTS
) -> Got:
    """What the attackers got, while all others got their predictions."""
    with Load(stack.port, 16, rest=0.02) as load:
        load.wait_for(16)
        got = attackers.submit(run, name, str(stack.port), count, seconds).result(120)
        load.wait_for(16)
    assert load.counts.failed == 0, (load.counts.statuses, load.counts.broken[:3])
    assert not any(re.search(r"\b50[0234]\b", answer) for answer in got), got
    return got


@pytest.mark.parametrize("name", ["slow header", "silent"])
def test_slow_headers_are_hung_up_on(name: str, stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Connections whose header does not come within Nginx's time are ended, all of them."""
    got = attacked(stack, attackers, name, LONG)
    assert sum(got.values()) == CLIENTS
    assert got.keys() <= {"reset", "closed", "408"}


@pytest.mark.parametrize("name", ["slow body", "slow reader", "never read", "endless extension", "endless trailers"])
def test_slow_ones_hold_nobody_up(name: str, stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Who sends a body or reads an answer a byte a second, or never ends, takes nothing from the others."""
    assert attacked(stack, attackers, name)


def test_header_bombs(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Headers that are too large are refused by Nginx, and hundreds of small ones are only headers."""
    got = attacked(stack, attackers, "header bombs")
    assert {answer for answer in got if not answer.endswith(": reset")} <= {
        "100 headers of 8 KB: 400",
        "a header of 1 MB: 400",
        "10,000 headers: 400",
        "900 headers: 200",
        "an address of 100 KB: 414",
    }
    assert got["900 headers: 200"]


def test_body_bombs(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Bodies that are larger or deeper than they look are refused, and odd chunks are read."""
    got = attacked(stack, attackers, "body bombs")
    assert got.keys() == {
        "Content-Length 10 GB: 413",
        "1 MB of [: 400",
        "deep: 422",
        "a number of 1 MB: 400",
        "1e400: 400",
        "gzip bomb: 415",
        "chunks of a byte, extensions, trailers: 200",
    }


def test_endless_chunks(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """A chunked body that has no end is refused at the limit of a body."""
    assert attacked(stack, attackers, "endless chunks").keys() <= {"413", "reset"}


def test_pipelined_requests_are_answered(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """A thousand requests that were sent before the first answer was read are all answered."""
    assert attacked(stack, attackers, "pipelined", count=1000) == {"1000 x 200": 1}


def test_half_closed_connections(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Who says that nothing more will come is taken for gone by a replica's request, and answered or hung up on."""
    got = attacked(stack, attackers, "half closed")
    assert got["constant: 200"] == CLIENTS // 10
    assert got.keys() <= {"constant: 200", "whole: 200", "whole: closed", "cut: closed", "cut: 400"}


def test_resets_harm_nobody(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Connections that are reset wherever they are harm nobody."""
    assert attacked(stack, attackers, "resets").keys() == {"reset by us"}


def test_malformed_requests(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """What is no HTTP, or two kinds of it, gets the one answer that it should, and is never taken for two requests."""
    got = attacked(stack, attackers, "malformed")
    answers = dict(line.split(": ", 1) for line in got)
    for name, (_, statuses) in MALFORMED.items():
        wanted = {" ".join(map(str, statuses))} if statuses else {"closed", "open", "reset"}
        assert answers[name] in wanted, name
