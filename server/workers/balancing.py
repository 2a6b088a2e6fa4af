"""Who of a replica's workers accepts a new connection: the one that holds the fewest.

Workers share one listening socket, and a kept-alive connection stays with the worker that accepted it. Left to
themselves, the first worker to wake takes all that wait (64 connections to 8 workers: 58 to one of them), so each
worker publishes how many it holds, and one that holds more than another steps back for a moment.
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

# How often, and for how long each time (seconds), a fuller worker leaves a connection to the others. All of it is the
# longest that a client waits when the emptier ones are too busy to take it.
_TRIES = 4
_STEP_BACK = 0.001
# The workers of a new replica wait for each other before they accept, or the first would get all that wait already.
# Those that take longer to boot are not waited for (seconds).
_PATIENCE = 2.0
# Of many connections, a worker may hold an eighth more than another before it steps back: waiting costs time, too.
_SLACK = 8
# The most that one turn of the loop accepts.
_AT_ONCE = 64
# Out of file descriptors, say: no use in asking again at once (seconds).
_PAUSE = 0.1


class Shares:
    """The connections of each worker, in memory that master and workers share.

    A place holds 0 where there is no worker, and one more than the connections where there is one. Slots count from 1;
    place 0 holds the highest slot that was ever given out.
    """

    def __init__(self, slots: int = 4096) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * slots)).cast("I")

    def free_slot(self, used: set[int]) -> int:
        """The first slot that is not ``used``, for a worker about to be forked."""
        slot = next(slot for slot in range(1, len(self._counts)) if slot not in used)
        self._counts[0] = max(self._counts[0], slot)
        return slot

    def publish(self, slot: int, connections: int) -> None:
        """Say how many connections the worker in ``slot`` holds."""
        self._counts[slot] = connections + 1

    def clear(self, slot: int) -> None:
        """The worker in ``slot`` takes no more: it drains, or is gone."""
        self._counts[slot] = 0

    def fewest(self) -> int:
        """The fewest connections that any worker holds."""
        return min(self._working(), default=1) - 1

    def workers(self) -> int:
        """How many workers accept, or wait to."""
        return len(self._working())

    def _working(self) -> list[int]:
        return [count for count in self._counts[1 : self._counts[0] + 1] if count]


class Acceptor:
    """Accepts from one listening socket into the running loop, as long as others hold as many connections.

    ``held`` tells how many connections this worker has, counted from the moment that a protocol is made; ``siblings``,
    how many workers the replica is to have.
    """

    def __init__(  # noqa: PLR0913  (each is another thing to know)
        self,
        listener: socket.socket,
        *,
        make_protocol: Callable[[], asyncio.Protocol],
        held: Callable[[], int],
        shares: Shares,
        slot: int,
        siblings: int,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._held = held
        self._shares = shares
        self._slot = slot
        self._siblings = siblings
        self._loop = asyncio.get_running_loop()
        self._patience_ends = self._loop.time() + _PATIENCE
        self._stepped_back = 0
        self._later: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Watch for connections."""
        self._later = None
        self.publish()
        if self._shares.workers() < self._siblings and self._loop.time() < self._patience_ends:
            self._later = self._loop.call_later(_STEP_BACK, self.start)
            return
        if not self._someone_waits():
            self._stepped_back = 0  # the others took it: patience with the next one starts anew
        self._loop.add_reader(self._listener.fileno(), self._on_readable)

    def publish(self) -> None:
        """Tell the other workers how many connections this one holds; clients come and go in between."""
        self._shares.publish(self._slot, self._held())

    def close(self) -> None:
        """Take no more, and let go of the socket."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._shares.clear(self._slot)
        self._listener.close()

    def _on_readable(self) -> None:
        """Take what waits, as long as this worker does not get ahead of the others.

        One a turn of the loop would be too slow: with many connections at work, a turn is long.
        """
        for taken in range(_AT_ONCE):
            fewest = self._shares.fewest()
            if self._held() > fewest + fewest // _SLACK:
                if not taken:
                    self._leave_to_others()
                return
            if not self._accept():
                return

    def _leave_to_others(self) -> None:
        if self._stepped_back < _TRIES:
            self._stepped_back += 1
            self._step_back(_STEP_BACK)
        else:
            self._accept()

    def _accept(self) -> bool:
        """Take one connection; false if there is none to take now."""
        self._stepped_back = 0
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster, or the client left
        except OSError as error:
            logger.error("cannot accept: %s", error)
            self._step_back(_PAUSE)
            return False
        self._adopt(connection)
        self.publish()
        return True

    def _someone_waits(self) -> bool:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    def _step_back(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._later = self._loop.call_later(seconds, self.start)

    def _adopt(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Made now, not when the loop gets to it: it counts among those that this worker holds.
        protocol = self._make_protocol()
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, connection))
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(partial(self._adopted, protocol))

    def _adopted(self, protocol: asyncio.Protocol, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            protocol.connection_lost(error if isinstance(error, Exception) else None)
