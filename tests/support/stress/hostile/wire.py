"""Connections of hostile clients, and what they get.

A place is a port of this machine, or the path of a Unix socket. What a client got are the statuses of its answers; else
``closed`` or ``reset``; else ``open``: the other side still waited.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

from tests.support.stress.load import WORKSHOP_ROW, request_bytes

Got = Counter[str]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

REQUEST = request_bytes(WORKSHOP_ROW, 80)
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# The answer to the last byte may take as long as Nginx waits for the next one.
_PATIENCE = 15.0


async def connect(place: str) -> Streams:
    """A connection to a place."""
    if "/" in place:
        return await asyncio.open_unix_connection(place)
    return await asyncio.open_connection("127.0.0.1", int(place))


@asynccontextmanager
async def connection(place: str) -> AsyncIterator[Streams]:
    """A connection that is closed at the end, however it fared."""
    reader, writer = await connect(place)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def got(reader: asyncio.StreamReader, seconds: float = _PATIENCE) -> str:
    """The statuses of all answers until the other side hangs up, or is silent for so long."""
    data = bytearray()
    try:
        while part := await asyncio.wait_for(reader.read(2**16), seconds):
            data += part
        end = "closed"
    except TimeoutError:
        end = "open"
    except ConnectionError:
        end = "reset"
    statuses = re.findall(rb"HTTP/1\.[01] (\d{3})", data)
    return " ".join(_times(status.decode(), count) for status, count in Counter(statuses).items()) or end


def _times(status: str, count: int) -> str:
    return f"{count} x {status}" if count > 1 else status


async def many(count: int, one: Callable[[], Awaitable[str]]) -> Got:
    """What so many clients got, all at once."""

    async def safely() -> str:
        try:
            return await one()
        except ConnectionError:
            return "reset"

    return Counter(await asyncio.gather(*(safely() for _ in range(count))))


async def sent(place: str, data: bytes, patience: float = 1.0) -> str:
    """What a client gets that sends this, and waits a while for more than one answer."""
    async with connection(place) as (reader, writer):
        writer.write(data)
        with suppress(ConnectionError):
            await writer.drain()
        return await got(reader, patience)


async def each(place: str, count: int, cases: Iterable[tuple[str, bytes]]) -> Got:
    """What so many clients got for each of some messages."""
    result: Got = Counter()
    for name, data in cases:
        for answer, times in (await many(count, partial(sent, place, data))).items():
            result[f"{name}: {answer}"] += times
    return result


async def plain(place: str) -> socket.socket:
    """A socket that takes in no more than it is asked to, and can hold little: asyncio's own would read ahead."""
    client = socket.socket(socket.AF_UNIX if "/" in place else socket.AF_INET)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, place if "/" in place else ("127.0.0.1", int(place)))
    return client
