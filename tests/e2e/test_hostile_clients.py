"""Attacks of hostile clients on a stack that serves regular clients.

`tests.support.stress.siege` measures the same attacks in more detail.
"""

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
from tests.support.stress.hostile.wire import Outcomes
from tests.support.stress.load import Load
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("stack")

CLIENTS = 300
# The long duration exceeds the time for which Nginx waits for the next byte, after which it closes connections.
LONG_SECONDS, SHORT_SECONDS = 14.0, 4.0


@pytest.fixture(scope="module")
def attackers() -> Iterator[ProcessPoolExecutor]:
    """A process for the hostile clients, so that they do not delay the regular ones in this process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(autouse=True)
def no_resources_leak(stack: Stack) -> Iterator[None]:
    """After each attack, Nginx has closed its connections, and the workers are the same and use no more memory."""
    initial = memory(stack)
    yield
    wait_until(
        lambda: connections(stack) <= 5,
        seconds=30,
        pause=0.2,
        describe=lambda: f"Nginx holds {connections(stack)} connections",
    )
    final = memory(stack)
    assert final.keys() == initial.keys()
    assert sum(final.values()) - sum(initial.values()) < 400_000_000


def memory(stack: Stack) -> dict[int, int]:
    """Return the unique set size (bytes) of each worker of the replicas, by process id."""
    masters = (psutil.Process(pid) for name, pid in stack.pids().items() if name.startswith("replica"))
    return {worker.pid: worker.memory_full_info().uss for master in masters for worker in master.children()}


def connections(stack: Stack) -> int:
    """Return the number of connections of clients that Nginx holds, including this request's."""
    with short_path(stack.var / STATUS_SOCKET) as socket:
        match = re.search(r"Active connections: (\d+)", ask(socket, "GET /stub_status")[2])
    assert match is not None
    return int(match[1])


def outcomes_of_attack(
    stack: Stack, attackers: ProcessPoolExecutor, name: str, seconds: float = SHORT_SECONDS, count: int = CLIENTS
) -> Outcomes:
    """Run an attack, assert that all regular clients get predictions, and return the attackers' outcomes."""
    with Load(stack.port, 16, pause_seconds=0.02) as load:
        load.wait_for(16)
        outcomes = attackers.submit(run, name, str(stack.port), count, seconds).result(120)
        load.wait_for(16)
    assert load.counts.failed == 0, (load.counts.statuses, load.counts.broken[:3])
    assert not any(re.search(r"\b50[0234]\b", outcome) for outcome in outcomes), outcomes
    return outcomes


@pytest.mark.parametrize("name", ["slow header", "silent"])
def test_connections_with_slow_headers_are_closed(name: str, stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Nginx closes all connections whose header does not arrive within its time limit."""
    outcomes = outcomes_of_attack(stack, attackers, name, LONG_SECONDS)
    assert sum(outcomes.values()) == CLIENTS
    assert outcomes.keys() <= {"reset", "closed", "408"}


@pytest.mark.parametrize("name", ["slow body", "slow reader", "never read", "endless extension", "endless trailers"])
def test_slow_clients_do_not_affect_others(name: str, stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Clients that send or read one byte a second, or never end a request, do not affect the regular clients."""
    assert outcomes_of_attack(stack, attackers, name)


def test_oversized_headers_are_refused(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Nginx refuses headers that are too large, and accepts hundreds of small ones."""
    outcomes = outcomes_of_attack(stack, attackers, "header bombs")
    assert {answer for answer in outcomes if not answer.endswith(": reset")} <= {
        "100 headers of 8 KB: 400",
        "a header of 1 MB: 400",
        "10,000 headers: 400",
        "900 headers: 200",
        "a path of 100 KB: 414",
    }
    assert outcomes["900 headers: 200"]


def test_oversized_bodies_are_refused(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Bodies that are too large, too deep or compressed are refused, and unusual chunks are accepted."""
    outcomes = outcomes_of_attack(stack, attackers, "body bombs")
    assert outcomes.keys() == {
        "Content-Length 10 GB: 413",
        "1 MB of [: 400",
        "deep: 422",
        "a number of 1 MB: 400",
        "1e400: 400",
        "gzip bomb: 415",
        "chunks of a byte, extensions, trailers: 200",
    }


def test_endless_chunks_are_refused(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """A chunked body without an end is refused at the size limit."""
    assert outcomes_of_attack(stack, attackers, "endless chunks").keys() <= {"413", "reset"}


def test_pipelined_requests_are_answered(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """A thousand requests that were sent before the first answer was read are all answered."""
    assert outcomes_of_attack(stack, attackers, "pipelined", count=1000) == {"1000 x 200": 1}


def test_half_closed_connections_are_answered_or_closed(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """After a client shuts down its sending side, Nginx answers itself, or treats a replica's request as abandoned."""
    outcomes = outcomes_of_attack(stack, attackers, "half closed")
    assert outcomes["constant: 200"] == CLIENTS // 10
    assert outcomes.keys() <= {"constant: 200", "whole: 200", "whole: closed", "cut: closed", "cut: 400"}


def test_resets_do_not_affect_others(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Connections that are reset at any stage do not affect the regular clients."""
    assert outcomes_of_attack(stack, attackers, "resets").keys() == {"reset by us"}


def test_malformed_requests_get_the_expected_statuses(stack: Stack, attackers: ProcessPoolExecutor) -> None:
    """Requests that are not HTTP, or ambiguous, get the expected answer and never count as two requests."""
    outcomes = outcomes_of_attack(stack, attackers, "malformed")
    answers = dict(line.split(": ", 1) for line in outcomes)
    for name, (_, statuses) in MALFORMED.items():
        expected = {" ".join(map(str, statuses))} if statuses else {"closed", "open", "reset"}
        assert answers[name] in expected, name
