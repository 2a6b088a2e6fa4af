"""Reading a request's body, and the limit on its size."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Receive

from server.errors import BodyTooLarge, ClientDisconnected

Header = tuple[bytes, bytes]
Headers = Iterable[Header]


def declared_of(headers: Headers) -> tuple[bytes, int]:
    """Return the media type and the length in bytes that a body was declared with; 0 where it comes in parts."""
    media_type, length = b"", b"0"
    for name, value in headers:
        if name == b"content-type" and not media_type:
            media_type = value
        elif name == b"content-length":
            length = value
    return media_type, int(length)


async def read_body(receive: Receive, declared: int, limit: int) -> bytes:
    """Return a body of at most ``limit`` bytes, of which ``declared`` were announced.

    Raises:
        BodyTooLarge: it is longer, or was announced to be.
        ClientDisconnected: the client left before the end of it.
    """
    if declared > limit:
        raise _too_large(limit)
    body, more = await _receive(receive)
    if more:
        body = await _remaining_parts(body, receive, limit)
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _remaining_parts(body: bytes, receive: Receive, limit: int) -> bytes:
    """Return a body that comes in parts, up to the part that goes over the limit."""
    parts, more = bytearray(body), True
    while more and len(parts) <= limit:
        body, more = await _receive(receive)
        parts += body
    return bytes(parts)


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """Return the next part of a body, and whether another one follows."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected("the client went away")
    return message.get("body", b""), message.get("more_body", False)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes")
