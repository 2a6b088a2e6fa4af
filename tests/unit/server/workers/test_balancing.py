"""Who accepts a connection: shares over a real fork, and acceptors on real loops with real sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.workers.balancing import Acceptor, Shares
from tests.support.waiting import wait_until_async

PATIENCE = 20  # seconds until a test that hangs fails instead
A_WHILE = 0.02  # many turns of the loop, and longer than all of a step back


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests' idle threads, from 3.12 on
def test_shares_are_seen_across_a_fork() -> None:
    """What a forked worker publishes is seen by the master, and the other way round."""
    shares = Shares(4)
    slot = shares.free_slot(set())
    other = shares.free_slot({slot})
    shares.publish(other, 7)
    pid = os.fork()
    if pid == 0:
        try:
            shares.publish(slot, shares.fewest() - 2)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (shares.fewest(), shares.workers()) == (5, 2)


def test_slot_of_a_worker_that_is_gone_is_given_again() -> None:
    """Slots count from 1, and the lowest that nobody uses is the next."""
    shares = Shares()
    assert [shares.free_slot(set(range(1, used))) for used in (1, 2, 3)] == [1, 2, 3]
    assert shares.free_slot({1, 3}) == 2
    assert shares.free_slot({2, 3}) == 1


def test_fewest_counts_only_those_that_work() -> None:
    """A worker with no connections counts; a slot without a worker does not."""
    shares = Shares()
    assert (shares.fewest(), shares.workers()) == (0, 0)
    for slot, connections in ((1, 4), (2, 0), (3, 2)):
        assert shares.free_slot(set(range(1, slot))) == slot
        shares.publish(slot, connections)
    assert (shares.fewest(), shares.workers()) == (0, 3)
    shares.clear(2)
    assert (shares.fewest(), shares.workers()) == (2, 2)
    shares.publish(3, 9)
    assert (shares.fewest(), shares.workers()) == (4, 2)


class Connection(asyncio.Protocol):
    """One connection of a worker, which says back what it hears."""

    def __init__(self, held: set[Connection]) -> None:
        self._held = held
        held.add(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._held.discard(self)


@dataclass
class Site:
    """One listening socket, the shares of those who accept from it, and its clients."""

    listener: socket.socket
    shares: Shares = field(default_factory=Shares)
    acceptors: list[Acceptor] = field(default_factory=list)
    clients: list[socket.socket] = field(default_factory=list)
    held: list[set[Connection]] = field(default_factory=list)

    def worker(self, *, siblings: int = 1) -> tuple[Acceptor, set[Connection]]:
        """An acceptor in the next slot, not started, and the connections it holds."""
        held = set[Connection]()
        self.held.append(held)
        slot = self.shares.free_slot(set(range(1, len(self.acceptors) + 1)))
        acceptor = Acceptor(
            self.listener.dup(),
            make_protocol=lambda: Connection(held),
            held=lambda: len(held),
            shares=self.shares,
            slot=slot,
            siblings=siblings,
        )
        self.acceptors.append(acceptor)
        return acceptor, held

    def sibling(self, connections: int) -> int:
        """The slot of a worker elsewhere, that holds so many."""
        slot = self.shares.free_slot(set(range(1, len(self.acceptors) + 1)))
        self.shares.publish(slot, connections)
        return slot

    def connect(self) -> socket.socket:
        """A client; the kernel takes it whether or not anyone accepts."""
        client = socket.socket(self.listener.family)
        self.clients.append(client)
        client.connect(self.listener.getsockname())
        client.setblocking(False)
        return client


async def echoed(client: socket.socket) -> bool:
    async with asyncio.timeout(PATIENCE):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"hello")
        return await loop.sock_recv(client, 5) == b"hello"


@asynccontextmanager
async def listening(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> AsyncIterator[Site]:
    with socket.socket(family) as listener:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()  # 128 may wait
        listener.setblocking(False)
        site = Site(listener)
        try:
            yield site
        finally:
            for acceptor in site.acceptors:
                if acceptor._listener.fileno() >= 0:
                    acceptor.close()
            for client in site.clients:
                client.close()
            await wait_until_async(lambda: not any(acceptor._tasks for acceptor in site.acceptors))
            await wait_until_async(lambda: not any(site.held))  # the connections hear that their clients left


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.anyio
async def test_two_workers_accept_in_turn() -> None:
    """Of two workers on one socket each takes every second connection; of many, neither gets an eighth ahead."""
    async with listening() as site:
        (one, of_one), (other, of_other) = site.worker(siblings=2), site.worker(siblings=2)
        one.start()
        other.start()
        for total in range(1, 41):
            site.connect()
            await wait_until_async(lambda total=total: len(of_one) + len(of_other) == total)  # type: ignore[misc]
            fewer, more = sorted([len(of_one), len(of_other)])
            assert more - fewer <= 1 + fewer // 8


@pytest.mark.anyio
async def test_fuller_worker_leaves_a_connection_to_the_others() -> None:
    """While another holds fewer and is there to take it, a worker with more accepts nothing."""
    async with listening() as site:
        acceptor, held = site.worker()
        acceptor.start()
        site.connect()
        await wait_until_async(lambda: len(held) == 1)
        site.sibling(0)
        taken: list[socket.socket] = []
        loop = asyncio.get_running_loop()
        loop.add_reader(site.listener.fileno(), lambda: taken.append(site.listener.accept()[0]))
        for total in range(1, 11):
            site.connect()
            await wait_until_async(lambda total=total: len(taken) == total)  # type: ignore[misc]
            await wait_until_async(lambda: acceptor._stepped_back == 0)
        loop.remove_reader(site.listener.fileno())
        assert len(held) == 1
        for connection in taken:
            connection.close()


@pytest.mark.anyio
async def test_fuller_worker_accepts_when_nobody_else_does() -> None:
    """A connection that the emptier workers are too busy to take is taken by a fuller one."""
    async with listening() as site:
        acceptor, held = site.worker()
        site.sibling(0)
        acceptor.start()
        for total in (1, 2, 3):
            client = site.connect()
            await wait_until_async(lambda total=total: len(held) == total)  # type: ignore[misc]
            assert await echoed(client)
        assert site.shares.fewest() == 0


@pytest.mark.anyio
async def test_only_worker_takes_many_in_a_turn(tmp_path: Path) -> None:
    """A worker without siblings takes all that wait in one turn of the loop, up to 64, and the rest in the next."""
    async with listening(socket.AF_UNIX, str(tmp_path / "s")) as site:
        acceptor, held = site.worker()
        acceptor.publish()
        for _ in range(70):
            site.connect()
        for taken in (64, 70, 70):
            acceptor._on_readable()
            assert site.shares.fewest() == len(held) == taken
        assert acceptor._later is None
        await wait_until_async(lambda: len(held) == 70)
        assert all([await echoed(client) for client in site.clients])


@pytest.mark.anyio
@pytest.mark.parametrize(("theirs", "taken"), [([0], 1), ([3], 4), ([5, 2], 3), ([8], 10), ([17, 40], 20), ([40], 30)])
async def test_siblings_limit_what_a_turn_takes(tmp_path: Path, theirs: list[int], taken: int) -> None:
    """In one turn a worker takes what brings it just past an eighth more than the emptiest of the others holds."""
    async with listening(socket.AF_UNIX, str(tmp_path / "s")) as site:
        acceptor, held = site.worker()
        for slot, connections in enumerate(theirs, start=2):
            assert site.shares.free_slot(set(range(1, slot))) == slot
            site.shares.publish(slot, connections)
        acceptor.publish()
        for _ in range(30):
            site.connect()
        acceptor._on_readable()
        assert len(held) == taken
        assert site.shares.fewest() == min([taken, *theirs])
        assert acceptor._later is None
        acceptor._on_readable()
        assert len(held) == taken
        assert (acceptor._later is not None) is (taken < 30)  # it has stepped back, or has all
        acceptor.close()
        await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_only_worker_never_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without siblings leaves no connection to others, however they come."""
    async with listening() as site:
        acceptor, held = site.worker()
        steps: list[float] = []
        monkeypatch.setattr(acceptor, "_step_back", steps.append)
        acceptor.start()
        for _ in range(20):
            site.connect()
            await asyncio.sleep(0)
        await wait_until_async(lambda: len(held) == 20)
        assert steps == []


@pytest.mark.anyio
async def test_what_is_held_is_published() -> None:
    """The others see how many connections a worker holds, as they come and, at its next word, as they go."""
    async with listening() as site:
        acceptor, held = site.worker()
        acceptor.start()
        assert site.shares.fewest() == 0
        client = site.connect()
        await wait_until_async(lambda: len(held) == 1)
        assert site.shares.fewest() == 1
        client.close()
        await wait_until_async(lambda: not held)
        acceptor.publish()
        assert site.shares.fewest() == 0


@pytest.mark.anyio
async def test_workers_wait_for_their_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker of a new replica takes nothing until the other is there too."""
    monkeypatch.setattr("server.workers.balancing._PATIENCE", 3600.0)
    async with listening() as site:
        acceptor, held = site.worker(siblings=2)
        acceptor.start()
        client = site.connect()
        await asyncio.sleep(A_WHILE)
        assert not held
        site.sibling(0)
        assert await echoed(client)


@pytest.mark.anyio
async def test_siblings_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose sibling does not come up serves alone."""
    monkeypatch.setattr("server.workers.balancing._PATIENCE", 0.05)
    async with listening() as site:
        acceptor, _ = site.worker(siblings=2)
        acceptor.start()
        assert await echoed(site.connect())


@pytest.mark.anyio
async def test_close_lets_go_of_the_socket() -> None:
    """A closed acceptor holds no socket and no share; what it accepted lives on, and others are refused."""
    async with listening() as site:
        acceptor, held = site.worker()
        acceptor.start()
        client = site.connect()
        await wait_until_async(lambda: len(held) == 1)
        address = site.listener.getsockname()
        acceptor.close()
        site.listener.close()
        assert site.shares.workers() == 0
        assert await echoed(client)
        with socket.socket() as late, pytest.raises(ConnectionRefusedError):
            late.connect(address)


@pytest.mark.anyio
@pytest.mark.parametrize("waiting", ["for siblings", "stepped back"])
async def test_closed_acceptor_does_not_return(waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An acceptor that is closed while it waits does not come back."""
    monkeypatch.setattr("server.workers.balancing._PATIENCE", 3600.0 if waiting == "for siblings" else 0.0)
    monkeypatch.setattr("server.workers.balancing._TRIES", 1_000_000)
    monkeypatch.setattr("server.workers.balancing._STEP_BACK", A_WHILE / 4)
    async with listening() as site:
        acceptor, held = site.worker(siblings=2)
        acceptor._held = lambda: 1
        slot = site.sibling(0) if waiting == "stepped back" else 0
        acceptor.start()
        site.connect()
        await wait_until_async(lambda: acceptor._later is not None)
        acceptor.close()
        site.shares.clear(slot)
        await asyncio.sleep(A_WHILE)
        assert not held
        assert site.shares.workers() == 0


@pytest.mark.anyio
async def test_reset_connection_does_not_affect_the_next() -> None:
    """A connection that was reset while it waited does no harm to the next."""
    async with listening() as site:
        acceptor, held = site.worker()
        for _ in range(3):
            gone = site.connect()
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        acceptor.start()
        assert await echoed(site.connect())
        await wait_until_async(lambda: len(held) == 1)


@pytest.mark.anyio
async def test_unix_socket_connections_are_accepted(tmp_path: Path) -> None:
    """Connections on a Unix socket, as the local backend has them, are accepted alike."""
    async with listening(socket.AF_UNIX, str(tmp_path / "s")) as site:
        acceptor, held = site.worker()
        acceptor.start()
        assert await echoed(site.connect())
        assert len(held) == 1


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let every further file, socket or pipe of this process be refused."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.anyio
async def test_out_of_file_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that may open no more files says so, and accepts once it may again."""
    async with listening() as site:
        acceptor, held = site.worker()
        client = site.connect()
        with no_more_files():
            acceptor.start()
            await wait_until_async(lambda: "cannot accept" in caplog.text)
            assert not held
        assert await echoed(client)
