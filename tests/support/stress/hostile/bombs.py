"""Attacks with headers and bodies that are too large, too deep or endless."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from contextlib import suppress

from tests.support.stress.hostile.wire import CHUNKED, POST, Outcomes, connection, read_outcome, run_clients, send_cases
from tests.support.stress.load import WORKSHOP_ROW


def _headers() -> Iterator[tuple[str, bytes]]:
    for name, lines in (
        ("100 headers of 8 KB", b"".join(b"X-%d: %s\r\n" % (i, b"x" * 8000) for i in range(100))),
        ("a header of 1 MB", b"X: " + b"x" * 2**20 + b"\r\n"),
        ("10,000 headers", b"".join(b"X-%d: x\r\n" % i for i in range(10_000))),
        ("900 headers", b"a:b\r\n" * 900),
    ):
        yield name, b"GET /ping HTTP/1.1\r\nHost: x\r\n" + lines + b"Connection: close\r\n\r\n"
    yield "a path of 100 KB", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def header_bombs(address: str, count: int, seconds: float) -> Outcomes:  # noqa: ARG001  (all attacks have the same parameters)
    """Send headers that are too long or too many."""
    return await send_cases(address, max(1, count // 20), _headers())


def _bodies() -> Iterator[tuple[str, bytes]]:
    deep = b'{"instances": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001
    yield "Content-Length 10 GB", POST + b"Content-Length: 10000000000\r\n\r\n"
    for name, body in (
        ("1 MB of [", b"[" * (2**20 - 100)),
        ("deep", deep),
        ("a number of 1 MB", b'{"features": [' + b"9" * 1_000_000 + b"]}"),
        ("1e400", b'{"features": [1e400]}'),
        ("gzip bomb", gzip.compress(b"[" * 10_000_000)),
    ):
        encoding = b"Content-Encoding: gzip\r\n" if "gzip" in name else b""
        yield name, POST + encoding + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    body = json.dumps(WORKSHOP_ROW).encode()
    parts = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body)
    yield "chunks of a byte, extensions, trailers", CHUNKED + parts + b"0\r\nX-Trailer: x\r\n\r\n"


async def body_bombs(address: str, count: int, seconds: float) -> Outcomes:  # noqa: ARG001
    """Send bodies that are too large or too deep, or larger than their encoded form."""
    return await send_cases(address, max(1, count // 50), _bodies())


async def _pour(address: str, head: bytes, part: bytes, seconds: float) -> str:
    """Send the same part repeatedly, until the server answers or the time is over."""
    async with connection(address) as (reader, writer):
        writer.write(head)
        answer = asyncio.ensure_future(read_outcome(reader, seconds))
        deadline = asyncio.get_running_loop().time() + seconds
        while not answer.done() and asyncio.get_running_loop().time() < deadline:
            writer.write(part)
            with suppress(ConnectionError):
                await asyncio.wait_for(writer.drain(), 1)
            await asyncio.sleep(0.05)
        if not answer.done():
            writer.transport.abort()
            answer.cancel()
            return "open"
        return await answer


async def endless_chunks(address: str, count: int, seconds: float) -> Outcomes:
    """Send chunked bodies that never end."""
    part = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    return await run_clients(max(1, count // 50), lambda: _pour(address, CHUNKED, part, seconds))


async def endless_extension(address: str, count: int, seconds: float) -> Outcomes:
    """Send a chunk whose extension never ends."""
    return await run_clients(max(1, count // 100), lambda: _pour(address, CHUNKED + b"1;", b"x" * 16384, seconds))


async def endless_trailers(address: str, count: int, seconds: float) -> Outcomes:
    """Send trailers that never end."""
    part = b"X-Trailer: x\r\n" * 1000
    return await run_clients(max(1, count // 100), lambda: _pour(address, CHUNKED + b"0\r\n", part, seconds))
