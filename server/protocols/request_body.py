"""Functions that read a request's body, up to a limit on its size."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Receive

from server.errors import BodyTooLarge, ClientDisconnected

Header = tuple[bytes, bytes]
Headers = Iterable[Header]


def content_type_and_length(headers: Headers) -> tuple[bytes, int]:
    """Return the values of Content-Type and of Content-Length in bytes; b"" and 0 if a header is absent."""
    content_type, length = b"", b"0"
    for name, value in headers:
        if name == b"content-type" and not content_type:
            content_type = value
        elif name == b"content-length":
            length = value
    return content_type, int(length)


async def read_body(receive: Receive, content_length: int, limit: int) -> bytes:
    """Return the request's body.

    Raises:
        BodyTooLarge: the body has more than ``limit`` bytes, or ``content_length`` says so.
        ClientDisconnected: the client disconnected before the end of the body.
    """
    if content_length > limit:
        raise _too_large(limit)
    body, more = await _receive(receive)
    if more:
        body = await _remaining_parts(body, receive, limit)
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _remaining_parts(body: bytes, receive: Receive, limit: int) -> bytes:
    """Return the whole body, or its beginning if it exceeds the limit."""
    parts, more = bytearray(body), True
    while more and len(parts) <= limit:
        body, more = await _receive(receive)
        parts += body
    return bytes(parts)


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """Return the next part of a body, and whether more parts follow."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected("the client disconnected")
    return message.get("body", b""), message.get("more_body", False)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes")
