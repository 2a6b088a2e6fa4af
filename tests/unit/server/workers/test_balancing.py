"""Tests of the balancing of connections: counts across a real fork, and acceptors with real event loops and sockets."""

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

from server.workers.balancing import Acceptor, ConnectionCounts
from tests.support.waiting import wait_until_async

TIMEOUT_SECONDS = 20  # a test that hangs fails after this time
SETTLE_SECONDS = 0.02  # many turns of the event loop, and longer than all step-backs for one connection


# From Python 3.12 on, a fork warns of idle threads that other tests have left.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_connection_counts_are_shared_across_a_fork() -> None:
    """A forked worker reads the counts that the master has published, and the master reads those of the worker."""
    counts = ConnectionCounts(4)
    slot_of_child = counts.free_slot(set())
    slot_of_parent = counts.free_slot({slot_of_child})
    counts.publish(slot_of_parent, 7)
    pid = os.fork()
    if pid == 0:
        try:
            counts.publish(slot_of_child, counts.fewest() - 2)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (counts.fewest(), counts.workers()) == (5, 2)


def test_lowest_unused_slot_is_assigned() -> None:
    """Slots count from 1, and a new worker gets the lowest slot that is not in use."""
    counts = ConnectionCounts()
    assert [counts.free_slot(set(range(1, used))) for used in (1, 2, 3)] == [1, 2, 3]
    assert counts.free_slot({1, 3}) == 2
    assert counts.free_slot({2, 3}) == 1


def test_fewest_ignores_slots_without_a_worker() -> None:
    """The fewest connections are 0 if a worker has none; slots without a worker are ignored."""
    counts = ConnectionCounts()
    assert (counts.fewest(), counts.workers()) == (0, 0)
    for slot, connections in ((1, 4), (2, 0), (3, 2)):
        assert counts.free_slot(set(range(1, slot))) == slot
        counts.publish(slot, connections)
    assert (counts.fewest(), counts.workers()) == (0, 3)
    counts.clear(2)
    assert (counts.fewest(), counts.workers()) == (2, 2)
    counts.publish(3, 9)
    assert (counts.fewest(), counts.workers()) == (4, 2)


class EchoConnection(asyncio.Protocol):
    """A connection of a worker that sends back what it receives, and is in ``held`` until it is closed."""

    def __init__(self, held: set[EchoConnection]) -> None:
        self._held = held
        held.add(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._held.discard(self)


@dataclass
class SharedSocket:
    """A listening socket with its acceptors, their connections and counts, and its clients."""

    listener: socket.socket
    counts: ConnectionCounts = field(default_factory=ConnectionCounts)
    acceptors: list[Acceptor] = field(default_factory=list)
    clients: list[socket.socket] = field(default_factory=list)
    held: list[set[EchoConnection]] = field(default_factory=list)

    def add_worker(self, *, expected_workers: int = 1) -> tuple[Acceptor, set[EchoConnection]]:
        """Return an acceptor in the next slot, not started, and the set of connections that it holds."""
        held = set[EchoConnection]()
        self.held.append(held)
        slot = self.counts.free_slot(set(range(1, len(self.acceptors) + 1)))
        acceptor = Acceptor(
            self.listener.dup(),
            make_protocol=lambda: EchoConnection(held),
            held_connections=lambda: len(held),
            counts=self.counts,
            slot=slot,
            expected_workers=expected_workers,
        )
        self.acceptors.append(acceptor)
        return acceptor, held

    def add_sibling(self, connections: int) -> int:
        """Publish the connections of a worker that does not accept here, and return its slot."""
        slot = self.counts.free_slot(set(range(1, len(self.acceptors) + 1)))
        self.counts.publish(slot, connections)
        return slot

    def connect(self) -> socket.socket:
        """Return a connected client; the kernel completes the connection even if no worker accepts it."""
        client = socket.socket(self.listener.family)
        self.clients.append(client)
        client.connect(self.listener.getsockname())
        client.setblocking(False)
        return client


async def echoed(client: socket.socket) -> bool:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"hello")
        return await loop.sock_recv(client, 5) == b"hello"


@asynccontextmanager
async def listening(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> AsyncIterator[SharedSocket]:
    with socket.socket(family) as listener:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()  # up to 128 connections may wait
        listener.setblocking(False)
        shared = SharedSocket(listener)
        try:
            yield shared
        finally:
            for acceptor in shared.acceptors:
                if acceptor._listener.fileno() >= 0:
                    acceptor.close()
            for client in shared.clients:
                client.close()
            await wait_until_async(lambda: not any(acceptor._tasks for acceptor in shared.acceptors))
            await wait_until_async(lambda: not any(shared.held))  # all connections are closed


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.anyio
async def test_two_workers_accept_evenly() -> None:
    """Two workers on one socket accept evenly: one is ahead by a connection or an eighth at most."""
    async with listening() as shared:
        first, held_by_first = shared.add_worker(expected_workers=2)
        second, held_by_second = shared.add_worker(expected_workers=2)
        first.start()
        second.start()
        for total in range(1, 41):
            shared.connect()
            await wait_until_async(lambda total=total: len(held_by_first) + len(held_by_second) == total)  # type: ignore[misc]
            fewer, more = sorted([len(held_by_first), len(held_by_second)])
            assert more - fewer <= 1 + fewer // 8


@pytest.mark.anyio
async def test_worker_with_more_connections_leaves_the_next_to_others() -> None:
    """A worker accepts nothing while another one that holds fewer connections accepts."""
    async with listening() as shared:
        acceptor, held = shared.add_worker()
        acceptor.start()
        shared.connect()
        await wait_until_async(lambda: len(held) == 1)
        shared.add_sibling(0)
        accepted_elsewhere: list[socket.socket] = []
        loop = asyncio.get_running_loop()
        loop.add_reader(shared.listener.fileno(), lambda: accepted_elsewhere.append(shared.listener.accept()[0]))
        for total in range(1, 11):
            shared.connect()
            await wait_until_async(lambda total=total: len(accepted_elsewhere) == total)  # type: ignore[misc]
            await wait_until_async(lambda: acceptor._step_backs == 0)
        loop.remove_reader(shared.listener.fileno())
        assert len(held) == 1
        for connection in accepted_elsewhere:
            connection.close()


@pytest.mark.anyio
async def test_worker_with_more_connections_accepts_if_no_other_does() -> None:
    """A connection that workers with fewer connections do not accept is accepted by one with more."""
    async with listening() as shared:
        acceptor, held = shared.add_worker()
        shared.add_sibling(0)
        acceptor.start()
        for total in (1, 2, 3):
            client = shared.connect()
            await wait_until_async(lambda total=total: len(held) == total)  # type: ignore[misc]
            assert await echoed(client)
        assert shared.counts.fewest() == 0


@pytest.mark.anyio
async def test_only_worker_accepts_up_to_64_connections_per_turn(tmp_path: Path) -> None:
    """The only worker of a replica accepts up to 64 waiting connections in each turn of the event loop."""
    async with listening(socket.AF_UNIX, str(tmp_path / "s")) as shared:
        acceptor, held = shared.add_worker()
        acceptor.publish()
        for _ in range(70):
            shared.connect()
        for accepted in (64, 70, 70):
            acceptor._on_readable()
            assert shared.counts.fewest() == len(held) == accepted
        assert acceptor._retry is None
        await wait_until_async(lambda: len(held) == 70)
        assert all([await echoed(client) for client in shared.clients])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sibling_connections", "accepted"), [([0], 1), ([3], 4), ([5, 2], 3), ([8], 10), ([17, 40], 20), ([40], 30)]
)
async def test_worker_accepts_until_it_holds_an_eighth_more_than_another(
    tmp_path: Path, sibling_connections: list[int], accepted: int
) -> None:
    """A worker stops accepting as soon as it holds more than 9/8 of the fewest connections of another worker."""
    async with listening(socket.AF_UNIX, str(tmp_path / "s")) as shared:
        acceptor, held = shared.add_worker()
        for slot, connections in enumerate(sibling_connections, start=2):
            assert shared.counts.free_slot(set(range(1, slot))) == slot
            shared.counts.publish(slot, connections)
        acceptor.publish()
        for _ in range(30):
            shared.connect()
        acceptor._on_readable()
        assert len(held) == accepted
        assert shared.counts.fewest() == min([accepted, *sibling_connections])
        assert acceptor._retry is None
        acceptor._on_readable()
        assert len(held) == accepted
        assert (acceptor._retry is not None) is (accepted < 30)  # it steps back, unless it has accepted all
        acceptor.close()
        await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_only_worker_never_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only worker of a replica accepts every connection without stepping back."""
    async with listening() as shared:
        acceptor, held = shared.add_worker()
        step_backs: list[float] = []
        monkeypatch.setattr(acceptor, "_step_back", step_backs.append)
        acceptor.start()
        for _ in range(20):
            shared.connect()
            await asyncio.sleep(0)
        await wait_until_async(lambda: len(held) == 20)
        assert step_backs == []


@pytest.mark.anyio
async def test_number_of_connections_is_published() -> None:
    """A worker publishes its number of connections when it accepts one, and when told to after one is closed."""
    async with listening() as shared:
        acceptor, held = shared.add_worker()
        acceptor.start()
        assert shared.counts.fewest() == 0
        client = shared.connect()
        await wait_until_async(lambda: len(held) == 1)
        assert shared.counts.fewest() == 1
        client.close()
        await wait_until_async(lambda: not held)
        acceptor.publish()
        assert shared.counts.fewest() == 0


@pytest.mark.anyio
async def test_first_worker_waits_for_the_others_to_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker of a new replica accepts nothing until the second one has booted."""
    monkeypatch.setattr("server.workers.balancing._BOOT_TIMEOUT_SECONDS", 3600.0)
    async with listening() as shared:
        acceptor, held = shared.add_worker(expected_workers=2)
        acceptor.start()
        client = shared.connect()
        await asyncio.sleep(SETTLE_SECONDS)
        assert not held
        shared.add_sibling(0)
        assert await echoed(client)


@pytest.mark.anyio
async def test_worker_stops_waiting_for_others_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker accepts connections after a timeout although the replica's other worker has not booted."""
    monkeypatch.setattr("server.workers.balancing._BOOT_TIMEOUT_SECONDS", 0.05)
    async with listening() as shared:
        acceptor, _ = shared.add_worker(expected_workers=2)
        acceptor.start()
        assert await echoed(shared.connect())


@pytest.mark.anyio
async def test_closed_acceptor_refuses_connections_and_keeps_open_ones() -> None:
    """A closed acceptor leaves the balancing and refuses new connections, and open ones still work."""
    async with listening() as shared:
        acceptor, held = shared.add_worker()
        acceptor.start()
        client = shared.connect()
        await wait_until_async(lambda: len(held) == 1)
        address = shared.listener.getsockname()
        acceptor.close()
        shared.listener.close()
        assert shared.counts.workers() == 0
        assert await echoed(client)
        with socket.socket() as late, pytest.raises(ConnectionRefusedError):
            late.connect(address)


@pytest.mark.anyio
@pytest.mark.parametrize("waiting", ["for siblings", "stepped back"])
async def test_acceptor_closed_while_waiting_stays_closed(waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An acceptor that is closed while it waits for others or steps back does not start to accept later."""
    monkeypatch.setattr("server.workers.balancing._BOOT_TIMEOUT_SECONDS", 3600.0 if waiting == "for siblings" else 0.0)
    monkeypatch.setattr("server.workers.balancing._MAX_STEP_BACKS", 1_000_000)
    monkeypatch.setattr("server.workers.balancing._STEP_BACK_SECONDS", SETTLE_SECONDS / 4)
    async with listening() as shared:
        acceptor, held = shared.add_worker(expected_workers=2)
        acceptor._held_connections = lambda: 1
        slot = shared.add_sibling(0) if waiting == "stepped back" else 0
        acceptor.start()
        shared.connect()
        await wait_until_async(lambda: acceptor._retry is not None)
        acceptor.close()
        shared.counts.clear(slot)
        await asyncio.sleep(SETTLE_SECONDS)
        assert not held
        assert shared.counts.workers() == 0


@pytest.mark.anyio
async def test_reset_connection_does_not_affect_the_next() -> None:
    """Waiting connections that were reset do not prevent the next one from being accepted."""
    async with listening() as shared:
        acceptor, held = shared.add_worker()
        for _ in range(3):
            client = shared.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        acceptor.start()
        assert await echoed(shared.connect())
        await wait_until_async(lambda: len(held) == 1)


@pytest.mark.anyio
async def test_unix_socket_connections_are_accepted(tmp_path: Path) -> None:
    """Connections on a Unix socket, which the local backend uses, are accepted."""
    async with listening(socket.AF_UNIX, str(tmp_path / "s")) as shared:
        acceptor, held = shared.add_worker()
        acceptor.start()
        assert await echoed(shared.connect())
        assert len(held) == 1


@contextmanager
def no_free_file_descriptors() -> Iterator[None]:
    """Limit this process to the file descriptors that it has open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.anyio
async def test_lack_of_file_descriptors_is_logged_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    """A worker without free file descriptors logs an error, and accepts as soon as some are free."""
    async with listening() as shared:
        acceptor, held = shared.add_worker()
        client = shared.connect()
        with no_free_file_descriptors():
            acceptor.start()
            await wait_until_async(lambda: "cannot accept a connection" in caplog.text)
            assert not held
        assert await echoed(client)
