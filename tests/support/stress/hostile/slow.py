"""Slow clients: a byte a second, in whichever direction, or none at all."""

from __future__ import annotations

import asyncio

from tests.support.stress.hostile.wire import POST, Got, connection, got, many, plain


async def _drip(place: str, head: bytes, drop: bytes, seconds: float) -> str:
    """Send a head, and then a byte a second until it is answered, hung up on, or the time is over."""
    async with connection(place) as (reader, writer):
        writer.write(head)
        answer = asyncio.ensure_future(got(reader, seconds))
        for _ in range(int(seconds)):
            await asyncio.wait([answer], timeout=1)
            if answer.done():
                break
            writer.write(drop)
        else:
            answer.cancel()
            return "open"
        return await answer


async def slow_header(place: str, count: int, seconds: float) -> Got:
    """A header that comes a byte a second."""
    return await many(count, lambda: _drip(place, b"POST /predict HTTP/1.1\r\nX: ", b"x", seconds))


async def slow_body(place: str, count: int, seconds: float) -> Got:
    """A body that comes a byte a second."""
    return await many(count, lambda: _drip(place, POST + b"Content-Length: 500\r\n\r\n", b" ", seconds))


async def fat_slow_body(place: str, count: int, seconds: float) -> Got:
    """Most of a body of 1 MB at once, and then a byte a second."""
    head = POST + b"Content-Length: 1048576\r\n\r\n" + b" " * 1_000_000
    return await many(count, lambda: _drip(place, head, b" ", seconds))


async def slow_reader(place: str, count: int, seconds: float) -> Got:
    """A large answer that is read a byte a second."""
    loop = asyncio.get_running_loop()

    async def one() -> str:
        with await plain(place) as client:
            await loop.sock_sendall(client, b"GET /assets/swagger/js/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(int(seconds)):
                if not await loop.sock_recv(client, 1):
                    return "closed"
                await asyncio.sleep(1)
            return "open"

    return await many(count, one)


async def silent(place: str, count: int, seconds: float) -> Got:
    """Connections that say nothing."""

    async def one() -> str:
        async with connection(place) as (reader, _):
            return await got(reader, seconds)

    return await many(count, one)
