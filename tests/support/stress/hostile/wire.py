"""Connections of hostile clients, and their outcomes.

An address is a port of this machine or the path of a Unix socket. The outcome of a client is the list of the statuses
of its answers; without an answer it is ``closed``, ``reset``, or ``open`` if the server kept the connection.
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

Outcomes = Counter[str]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

REQUEST = request_bytes(WORKSHOP_ROW, 80)
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# Longer than the time for which Nginx waits for the next byte.
_READ_TIMEOUT_SECONDS = 15.0


async def connect(address: str) -> Streams:
    """Connect to an address."""
    if "/" in address:
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection("127.0.0.1", int(address))


@asynccontextmanager
async def connection(address: str) -> AsyncIterator[Streams]:
    """Connect to an address, and close the connection when the block ends."""
    reader, writer = await connect(address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def read_outcome(reader: asyncio.StreamReader, seconds: float = _READ_TIMEOUT_SECONDS) -> str:
    """Return the statuses of all answers until the server closes, or sends nothing for ``seconds``; or the outcome."""
    data = bytearray()
    try:
        while part := await asyncio.wait_for(reader.read(2**16), seconds):
            data += part
        outcome = "closed"
    except TimeoutError:
        outcome = "open"
    except ConnectionError:
        outcome = "reset"
    statuses = re.findall(rb"HTTP/1\.[01] (\d{3})", data)
    return " ".join(_with_count(status.decode(), count) for status, count in Counter(statuses).items()) or outcome


def _with_count(status: str, count: int) -> str:
    return f"{count} x {status}" if count > 1 else status


async def run_clients(count: int, client: Callable[[], Awaitable[str]]) -> Outcomes:
    """Run ``count`` clients at the same time and count their outcomes."""

    async def client_or_reset() -> str:
        try:
            return await client()
        except ConnectionError:
            return "reset"

    return Counter(await asyncio.gather(*(client_or_reset() for _ in range(count))))


async def send_and_read(address: str, data: bytes, timeout_seconds: float = 1.0) -> str:
    """Send data and return the outcome, with a wait for a possible second answer."""
    async with connection(address) as (reader, writer):
        writer.write(data)
        with suppress(ConnectionError):
            await writer.drain()
        return await read_outcome(reader, timeout_seconds)


async def send_cases(address: str, count: int, cases: Iterable[tuple[str, bytes]]) -> Outcomes:
    """Send each message from ``count`` clients, and count the outcomes as ``NAME: OUTCOME``."""
    result: Outcomes = Counter()
    for name, data in cases:
        for answer, times in (await run_clients(count, partial(send_and_read, address, data))).items():
            result[f"{name}: {answer}"] += times
    return result


async def small_buffer_socket(address: str) -> socket.socket:
    """Return a connected socket with a small receive buffer; asyncio's streams would read ahead."""
    client = socket.socket(socket.AF_UNIX if "/" in address else socket.AF_INET)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, address if "/" in address else ("127.0.0.1", int(address)))
    return client
