"""The uvicorn worker that drains before it stops and writes each answer once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

# What uvicorn imports when it starts, imported here in the master, so that the workers share it.
import uvicorn.lifespan.on
import uvicorn.loops.uvloop  # noqa: F401
from gunicorn.arbiter import Arbiter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from server.metrics.counts import OTHER
from server.protocols import json_codec
from server.workers.balancing import Acceptor, Shares

if TYPE_CHECKING:
    import socket

    from server.http.app import Serving

logger = logging.getLogger(__name__)

# A kept-alive connection this long without a request is unlikely to have one on the wire (seconds).
_QUIET = 1.0
# Gunicorn kills what still runs at GRACEFUL_TIMEOUT; this much earlier the rest is answered with 503 (seconds).
_MARGIN = 2.0
# More than Nginx hands on. httptools would keep a header that has no end (bytes).
_MAX_HEADER = 65_536


class JoiningTransport:
    """A transport that sends an answer's head together with its body.

    uvicorn writes the two apart. A worker killed between them leaves half an answer, which Nginx cannot send to
    another replica; one write leaves all or nothing, and saves a system call.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep a head until the next write; send everything else."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:10] != b"1":
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Send a head that has no body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Send what is left, and close."""
        self.flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, with joined writes, an eye on clients that leave, and a limit."""

    transport: Any
    # Of a header that has begun and not ended, how much came since (bytes).
    _header: int | None = None

    def connection_made(self, transport: Any) -> None:
        """Put the joining transport between uvicorn and the socket."""
        super().connection_made(JoiningTransport(transport))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Hang up on a header that has no end."""
        super().data_received(data)
        if self._header is not None and not self.transport.is_closing():
            self._header += len(data)
            if self._header > _MAX_HEADER:
                self.send_400_response("the header is too large")

    def on_message_begin(self) -> None:
        """A header begins."""
        super().on_message_begin()
        self._header = 0

    def on_headers_complete(self) -> None:
        """And ends."""
        self._header = None
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """An answer without a body (to HEAD, say) ends here."""
        self.transport.flush()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take an answer that nobody will read out of the queue."""
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            answer = self.cycle.scope["state"].get("answer")
            if answer is not None:
                answer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Malformed HTTP gets the same kind of answer as everything else, and is hung up on."""
        body = json_codec.encode_problem(400, msg)
        lines = (
            "HTTP/1.1 400 Bad Request",
            f"content-type: {json_codec.PROBLEM_JSON}",
            f"content-length: {len(body)}",
            *(f"{name.decode()}: {value.decode()}" for name, value in self.app_state["serving"].marks),
            "connection: close",
        )
        self.app_state["serving"].metrics.counted(OTHER, 400)
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()


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
            protocol = Protocol(self.config, self.server_state, self.lifespan.state, loop)
            self.server_state.connections.add(protocol)  # as it does itself as soon as it is connected
            return protocol

        def held() -> int:
            return len(self.server_state.connections)

        for listener in sockets or []:
            worker = self._worker
            acceptor = Acceptor(
                listener,
                make_protocol=make_protocol,
                held=held,
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
        serving = self._publish()
        if serving is not None and serving.batcher.calling > self._worker.longest_call:
            self._worker.give_up(serving.batcher.calling)
        return await super().on_tick(counter) or os.getppid() != self._parent

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  (uvicorn's)
        """Drain, then do what uvicorn does."""
        for acceptor in self._acceptors:
            acceptor.close()
        serving = self.lifespan.state.get("serving")
        if serving is not None:
            serving.draining = True
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        await self._drain(time.monotonic() + self._worker.drain_seconds)
        if serving is not None:
            serving.batcher.close()
            await asyncio.sleep(0)  # those answers go out before the connections are closed
        await super().shutdown([])

    async def _drain(self, deadline: float) -> None:
        state = self.server_state
        quiet_since, seen = time.monotonic(), -1
        while state.connections and time.monotonic() < deadline:
            if state.tasks or state.total_requests != seen:
                quiet_since, seen = time.monotonic(), state.total_requests
            elif time.monotonic() - quiet_since > _QUIET:
                return
            for connection in state.connections:
                if isinstance(connection, Protocol) and connection.cycle is not None:
                    connection.cycle.keep_alive = False
            self._worker.notify()
            self._publish()
            await asyncio.sleep(0.02)

    def _publish(self) -> Serving | None:
        """What this worker serves, once it does; the others may know how it is doing."""
        serving: Serving | None = self.lifespan.state.get("serving")
        if serving is not None:
            serving.publish()
        return serving


class Worker(UvicornWorker):  # type: ignore[misc]
    """Gunicorn's side: one event loop, uvloop and httptools, no access log (Nginx writes it)."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012  (so declared by uvicorn-worker)
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_graceful_shutdown": 1,
    }

    # Made in the master, when it imports this class: workers inherit it, and those of a reload share it with the old.
    shares = Shares()
    # Which of the shares is this worker's; given before the fork.
    slot = 1

    @property
    def siblings(self) -> int:
        """How many workers the replica is to have, this one included."""
        workers: int = self.cfg.workers
        return workers

    @property
    def longest_call(self) -> float:
        """How long a predict call may run (seconds): as long as Gunicorn waits for a worker's sign of life."""
        seconds: float = self.cfg.timeout
        return seconds

    def give_up(self, seconds: float) -> None:
        """End this process: its one predict thread is stuck, nothing can stop it, and the master forks another."""
        logger.critical("a predict call has been running for %.0f s: this worker is replaced", seconds)
        os._exit(1)

    @property
    def drain_seconds(self) -> float:
        """How long requests may finish before the rest is refused."""
        graceful: float = self.cfg.graceful_timeout
        return max(graceful - _MARGIN, graceful / 2)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainingServer(self)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, self.handle_exit, signal.SIGQUIT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
