"""What is wrong in the order of things: requests before answers, ends before requests, resets, malformed HTTP."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from contextlib import suppress

from tests.support.stress.hostile.malformed import MALFORMED
from tests.support.stress.hostile.wire import REQUEST, Got, connect, connection, each, got, many, plain

_HALVES = (("whole", REQUEST), ("constant", b"GET /null HTTP/1.1\r\nHost: x\r\n\r\n"), ("cut", REQUEST[:-9]))


async def pipelined(place: str, count: int, seconds: float) -> Got:
    """So many requests on one connection, sent before the first answer is read."""
    last = REQUEST.replace(b"Host:", b"Connection: close\r\nHost:")
    async with connection(place) as (reader, writer):
        writer.write(REQUEST * (count - 1) + last)
        return Counter([await got(reader, seconds)])


async def never_read(place: str, count: int, seconds: float) -> Got:
    """Connections that ask and ask, and read no answer."""
    loop = asyncio.get_running_loop()

    async def one() -> str:
        with await plain(place) as client:
            for _ in range(int(seconds)):
                with suppress(TimeoutError):
                    await asyncio.wait_for(loop.sock_sendall(client, REQUEST * 20), 1)
                await asyncio.sleep(1)
            return "open"

    return await many(max(1, count // 20), one)


async def half_closed(place: str, count: int, seconds: float) -> Got:
    """A request, or half of one, and then the end of what the client will say."""
    result: Got = Counter()
    for name, data in _HALVES:

        async def one(data: bytes = data) -> str:
            async with connection(place) as (reader, writer):
                writer.write(data)
                writer.write_eof()
                return await got(reader, seconds)

        for answer, times in (await many(max(1, count // 10), one)).items():
            result[f"{name}: {answer}"] += times
    return result


async def _reset(place: str, data: bytes) -> None:
    """Connect, say something, and go without a farewell."""
    _, writer = await connect(place)
    writer.write(data)
    await asyncio.sleep(0.05)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def resets(place: str, count: int, seconds: float) -> Got:
    """Connections that are reset in the header, in the body, before the answer and at once, again and again."""
    loop = asyncio.get_running_loop()
    deadline, gone = loop.time() + seconds, Counter[str]()

    async def one() -> str:
        while loop.time() < deadline:
            for data in (REQUEST[:30], REQUEST[:-9], REQUEST, b""):
                await _reset(place, data)
                gone["reset by us"] += 1
            await asyncio.sleep(0.5)
        return "done"

    ends = await many(max(1, count // 10), one)
    del ends["done"]
    return gone + ends


async def malformed(place: str, count: int, seconds: float) -> Got:  # noqa: ARG001
    """Requests that are no HTTP, or two kinds of it at once."""
    return await each(place, 1, ((name, data) for name, (data, _) in MALFORMED.items()))
