"""A uvicorn server that shares connections with its siblings, and drains before it stops."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from uvicorn.server import Server

from server.workers.balancing import Acceptor
from server.workers.connection import HttpConnection
from server.workers.state import WorkerState

if TYPE_CHECKING:
    import socket

    from server.workers.worker import Worker

# A kept-alive connection this long without a request is unlikely to have one on the wire (seconds).
_QUIET_SECONDS = 1.0


class DrainingServer(Server):
    """A server that takes its share of the connections, and at a stop first closes its door, then finishes its work.

    On SIGTERM: no new connections, ``Connection: close`` on every answer, and the connections that are still used get
    their answers. Only then does uvicorn shut down. A request on the wire is never met by a closed connection.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.config)
        self._worker = worker
        self._parent = os.getppid()
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Let uvicorn start the application, and listen in a way that spreads connections over the workers."""
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()

        def make_protocol() -> asyncio.Protocol:
            protocol = HttpConnection(self.config, self.server_state, self.lifespan.state, loop)
            self.server_state.connections.add(protocol)  # as it does itself as soon as it is connected
            return protocol

        def held_connections() -> int:
            return len(self.server_state.connections)

        for listener in sockets or []:
            worker = self._worker
            acceptor = Acceptor(
                listener,
                make_protocol=make_protocol,
                held=held_connections,
                shares=worker.shares,
                slot=worker.slot,
                siblings=worker.siblings,
            )
            acceptor.start()
            self._acceptors.append(acceptor)

    async def on_tick(self, counter: int) -> bool:
        """Stop, too, when the master is gone: an orphan would hold the socket and never be replaced."""
        for acceptor in self._acceptors:
            acceptor.publish()
        state = self._publish()
        if state is not None and state.batcher.calling > self._worker.longest_call:
            self._worker.give_up(state.batcher.calling)
        return await super().on_tick(counter) or os.getppid() != self._parent

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  (uvicorn's)
        """Drain, then do what uvicorn does."""
        for acceptor in self._acceptors:
            acceptor.close()
        state = self.lifespan.state.get("worker")
        if state is not None:
            state.draining = True
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        await self._drain(time.monotonic() + self._worker.drain_seconds)
        if state is not None:
            state.batcher.close()
            await asyncio.sleep(0)  # those answers go out before the connections are closed
        await super().shutdown([])

    async def _drain(self, deadline: float) -> None:
        state = self.server_state
        quiet_since, seen = time.monotonic(), -1
        while state.connections and time.monotonic() < deadline:
            if state.tasks or state.total_requests != seen:
                quiet_since, seen = time.monotonic(), state.total_requests
            elif time.monotonic() - quiet_since > _QUIET_SECONDS:
                return
            for connection in state.connections:
                if isinstance(connection, HttpConnection) and connection.cycle is not None:
                    connection.cycle.keep_alive = False
            self._worker.notify()
            self._publish()
            await asyncio.sleep(0.02)

    def _publish(self) -> WorkerState | None:
        """Publish this worker's state, and return it; None before the application has made it."""
        state: WorkerState | None = self.lifespan.state.get("worker")
        if state is not None:
            state.publish()
        return state
