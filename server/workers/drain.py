"""A uvicorn server that balances connections over the workers of a replica, and drains before it stops."""

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

# After this time without requests it is unlikely that one is on its way on a kept-alive connection.
_QUIET_SECONDS = 1.0
_POLL_SECONDS = 0.02


class DrainingServer(Server):
    """A uvicorn server that accepts its share of the connections, and drains before it shuts down.

    On SIGTERM it accepts no new connections, adds ``Connection: close`` to every answer, and goes on answering on open
    connections until they are quiet. Only then does uvicorn shut down, so that no request meets a closed connection.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.config)
        self._worker = worker
        self._master_pid = os.getppid()
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Let uvicorn start the application, and accept connections through acceptors that balance them."""
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()

        def make_protocol() -> asyncio.Protocol:
            protocol = HttpConnection(self.config, self.server_state, self.lifespan.state, loop)
            # uvicorn adds the protocol when it is connected; it must count as held from now on.
            self.server_state.connections.add(protocol)
            return protocol

        def held_connections() -> int:
            return len(self.server_state.connections)

        for listener in sockets or []:
            worker = self._worker
            acceptor = Acceptor(
                listener,
                make_protocol=make_protocol,
                held_connections=held_connections,
                counts=worker.connection_counts,
                slot=worker.slot,
                expected_workers=worker.expected_workers,
            )
            acceptor.start()
            self._acceptors.append(acceptor)

    async def on_tick(self, counter: int) -> bool:
        """Publish the worker's state, exit if a predict call is stuck, and return whether to stop.

        Stop also if the master is gone: an orphaned worker would keep the listening socket and never be replaced.
        """
        for acceptor in self._acceptors:
            acceptor.publish()
        state = self._publish()
        if state is not None and state.batcher.call_seconds > self._worker.predict_timeout:
            self._worker.exit_stuck(state.batcher.call_seconds)
        return await super().on_tick(counter) or os.getppid() != self._master_pid

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  (uvicorn's)
        """Drain, then let uvicorn shut down."""
        for acceptor in self._acceptors:
            acceptor.close()
        state = self.lifespan.state.get("worker")
        if state is not None:
            state.draining = True
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        await self._drain(time.monotonic() + self._worker.drain_seconds)
        if state is not None:
            state.batcher.close()
            await asyncio.sleep(0)  # the refused requests get their answers before the connections are closed
        await super().shutdown([])

    async def _drain(self, deadline: float) -> None:
        state = self.server_state
        quiet_since, requests = time.monotonic(), -1
        while state.connections and time.monotonic() < deadline:
            if state.tasks or state.total_requests != requests:
                quiet_since, requests = time.monotonic(), state.total_requests
            elif time.monotonic() - quiet_since > _QUIET_SECONDS:
                return
            for connection in state.connections:
                if isinstance(connection, HttpConnection) and connection.cycle is not None:
                    connection.cycle.keep_alive = False
            self._worker.notify()
            self._publish()
            await asyncio.sleep(_POLL_SECONDS)

    def _publish(self) -> WorkerState | None:
        """Publish this worker's state and return it, or return None before the application has created it."""
        state: WorkerState | None = self.lifespan.state.get("worker")
        if state is not None:
            state.publish()
        return state
