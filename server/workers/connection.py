"""An HTTP/1.1 connection as uvicorn has it, that writes each answer once and notices clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import MalformedHttp
from server.metrics.counts import OTHER_ROUTE
from server.protocols.predict import problem

# Nginx hands on no header as large as this; httptools would keep one that has no end (bytes).
_MAX_HEADER_BYTES = 65_536


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


class HttpConnection(HttpToolsProtocol):
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
            if self._header > _MAX_HEADER_BYTES:
                self.send_400_response("the header is too large")

    def on_message_begin(self) -> None:
        """A header has begun."""
        super().on_message_begin()
        self._header = 0

    def on_headers_complete(self) -> None:
        """A header has ended."""
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
        worker = self.app_state["worker"]
        status, media_type, body = problem(MalformedHttp(msg))
        lines = (
            "HTTP/1.1 400 Bad Request",
            f"content-type: {media_type.decode()}",
            f"content-length: {len(body)}",
            *(f"{name.decode()}: {value.decode()}" for name, value in worker.identity_headers),
            "connection: close",
        )
        worker.metrics.request_answered(OTHER_ROUTE, status)
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()
