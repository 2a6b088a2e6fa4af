"""Balancing of connections: of a replica's workers, the one with the fewest connections accepts the next.

Workers share one listening socket, and a kept-alive connection stays with the worker that accepted it. Without
balancing, the first worker to wake accepts all waiting connections (of 64 connections to 8 workers, 58 went to one), so
each worker publishes how many it holds, and one that holds more than another steps back for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import select
import socket
from collections.abc import Callable
from functools import partial

logger = logging.getLogger(__name__)

# How often, and for how long each time, a worker with more connections leaves a waiting one to the others. The product
# is the longest that a client waits if the workers with fewer connections are too busy to accept it.
_MAX_STEP_BACKS = 4
_STEP_BACK_SECONDS = 0.001
# The workers of a new replica wait this long for each other before they accept, or the first one to boot would get all
# connections that are waiting already.
_BOOT_TIMEOUT_SECONDS = 2.0
# A worker may hold 1/8 more connections than another before it steps back, because stepping back costs time.
_LEAD_DIVISOR = 8
_MAX_ACCEPTS_PER_TURN = 64
# After an error that a retry at once would meet again, such as a lack of file descriptors.
_ERROR_PAUSE_SECONDS = 0.1


class ConnectionCounts:
    """The number of connections of each worker, in memory that the master and its workers share.

    Each worker has a slot, counted from 1. The entry of a slot is 0 without a worker, else the connections plus 1.
    Entry 0 holds the highest slot ever assigned.
    """

    def __init__(self, slots: int = 4096) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * slots)).cast("I")

    def free_slot(self, used: set[int]) -> int:
        """Return the first slot that is not in ``used``, for a worker about to be forked."""
        slot = next(slot for slot in range(1, len(self._counts)) if slot not in used)
        self._counts[0] = max(self._counts[0], slot)
        return slot

    def publish(self, slot: int, connections: int) -> None:
        """Set the number of connections of the worker in ``slot``."""
        self._counts[slot] = connections + 1

    def clear(self, slot: int) -> None:
        """Remove the worker in ``slot``, which drains or has ended, from the balancing."""
        self._counts[slot] = 0

    def fewest(self) -> int:
        """Return the number of connections of the worker that holds the fewest, or 0 without workers."""
        return min(self._active_entries(), default=1) - 1

    def workers(self) -> int:
        """Return the number of workers that accept connections or are about to."""
        return len(self._active_entries())

    def _active_entries(self) -> list[int]:
        return [entry for entry in self._counts[1 : self._counts[0] + 1] if entry]


class Acceptor:
    """An acceptor of connections from one listening socket, which steps back while other workers hold fewer.

    ``held_connections`` returns how many connections this worker has, including those whose protocol object exists but
    is not connected yet. ``expected_workers`` is the number of workers that the replica is configured to have.
    """

    def __init__(  # noqa: PLR0913  (all are needed, and none belong together)
        self,
        listener: socket.socket,
        *,
        make_protocol: Callable[[], asyncio.Protocol],
        held_connections: Callable[[], int],
        counts: ConnectionCounts,
        slot: int,
        expected_workers: int,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._held_connections = held_connections
        self._counts = counts
        self._slot = slot
        self._expected_workers = expected_workers
        self._loop = asyncio.get_running_loop()
        self._boot_deadline = self._loop.time() + _BOOT_TIMEOUT_SECONDS
        self._step_backs = 0
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Accept connections from now on; first wait for the replica's other workers, if it has just started."""
        self._retry = None
        self.publish()
        if self._counts.workers() < self._expected_workers and self._loop.time() < self._boot_deadline:
            self._retry = self._loop.call_later(_STEP_BACK_SECONDS, self.start)
            return
        if not self._connection_waits():
            self._step_backs = 0  # another worker accepted it: the next connection gets all step-backs again
        self._loop.add_reader(self._listener.fileno(), self._on_readable)

    def publish(self) -> None:
        """Publish the number of this worker's connections, which changes whenever a client closes one."""
        self._counts.publish(self._slot, self._held_connections())

    def close(self) -> None:
        """Accept no more connections, and close the listening socket."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._counts.clear(self._slot)
        self._listener.close()

    def _on_readable(self) -> None:
        """Accept waiting connections as long as no other worker holds clearly fewer.

        One connection per turn of the event loop would be too slow: with many active connections, a turn is long.
        """
        for accepted in range(_MAX_ACCEPTS_PER_TURN):
            fewest = self._counts.fewest()
            if self._held_connections() > fewest + fewest // _LEAD_DIVISOR:
                if not accepted:
                    self._step_back_or_accept()
                return
            if not self._accept():
                return

    def _step_back_or_accept(self) -> None:
        if self._step_backs < _MAX_STEP_BACKS:
            self._step_backs += 1
            self._step_back(_STEP_BACK_SECONDS)
        else:
            self._accept()

    def _accept(self) -> bool:
        """Accept one connection, and return whether there was one."""
        self._step_backs = 0
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster, or the client left
        except OSError as error:
            logger.error("cannot accept a connection: %s", error)
            self._step_back(_ERROR_PAUSE_SECONDS)
            return False
        self._connect(connection)
        self.publish()
        return True

    def _connection_waits(self) -> bool:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    def _step_back(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._retry = self._loop.call_later(seconds, self.start)

    def _connect(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The protocol is created now, not in the task, so that held_connections counts the connection at once.
        protocol = self._make_protocol()
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, connection))
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(partial(self._connected, protocol))

    def _connected(self, protocol: asyncio.Protocol, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            protocol.connection_lost(error if isinstance(error, Exception) else None)
