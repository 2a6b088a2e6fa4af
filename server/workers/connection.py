"""uvicorn's HTTP/1.1 connection, extended: it writes each answer at once and notices clients that disconnect."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import MalformedHttp
from server.metrics.counts import OTHER_ROUTE
from server.protocols.predict import problem

# Nginx forwards no header as large as this. httptools has no limit: an endless header would fill the memory.
_MAX_HEADER_BYTES = 65_536


class JoiningTransport:
    """A transport that sends the head of an answer together with its body.

    uvicorn writes head and body separately. If a worker is killed between the two, Nginx has received half an answer
    and cannot retry the request on another replica. One write sends all or nothing, and saves a system call.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold back a head until the next write, and send all other data at once."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:10] != b"1":
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Send a held head, as that of an answer without a body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Send a held head, and close the connection."""
        self.flush()
        self._transport.close()


class HttpConnection(HttpToolsProtocol):
    """An HTTP/1.1 connection that joins writes, cancels predictions of clients that left and limits request headers."""

    transport: Any
    # The bytes received of a header that is not complete; None between headers.
    _header_bytes: int | None = None

    def connection_made(self, transport: Any) -> None:
        """Wrap the transport, so that each answer is sent in one write."""
        super().connection_made(JoiningTransport(transport))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and refuse a header that is too large."""
        super().data_received(data)
        if self._header_bytes is not None and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self.send_400_response("the header is too large")

    def on_message_begin(self) -> None:
        """Start counting the bytes of a header."""
        super().on_message_begin()
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        """Stop counting the bytes of a header."""
        self._header_bytes = None
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Send a head that no body followed, such as that of an answer to HEAD."""
        self.transport.flush()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the prediction of a client that disconnected."""
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            answer = self.cycle.scope["state"].get("answer")
            if answer is not None:
                answer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP with a problem document, and close the connection."""
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
