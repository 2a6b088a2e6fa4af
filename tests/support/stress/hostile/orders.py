"""Attacks with unusual sequences: pipelining, half-closed and reset connections, and malformed HTTP."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from contextlib import suppress

from tests.support.stress.hostile.malformed import MALFORMED
from tests.support.stress.hostile.wire import (
    REQUEST,
    Outcomes,
    connect,
    connection,
    read_outcome,
    run_clients,
    send_cases,
    small_buffer_socket,
)

_HALF_CLOSE_CASES = (("whole", REQUEST), ("constant", b"GET /null HTTP/1.1\r\nHost: x\r\n\r\n"), ("cut", REQUEST[:-9]))


async def pipelined(address: str, count: int, seconds: float) -> Outcomes:
    """Send ``count`` requests on one connection before the first answer is read."""
    last_request = REQUEST.replace(b"Host:", b"Connection: close\r\nHost:")
    async with connection(address) as (reader, writer):
        writer.write(REQUEST * (count - 1) + last_request)
        return Counter([await read_outcome(reader, seconds)])


async def never_read(address: str, count: int, seconds: float) -> Outcomes:
    """Send requests repeatedly without reading any answer."""
    loop = asyncio.get_running_loop()

    async def client() -> str:
        with await small_buffer_socket(address) as connected:
            for _ in range(int(seconds)):
                with suppress(TimeoutError):
                    await asyncio.wait_for(loop.sock_sendall(connected, REQUEST * 20), 1)
                await asyncio.sleep(1)
            return "open"

    return await run_clients(max(1, count // 20), client)


async def half_closed(address: str, count: int, seconds: float) -> Outcomes:
    """Send a request, or part of one, and shut down the sending side."""
    result: Outcomes = Counter()
    for name, data in _HALF_CLOSE_CASES:

        async def client(data: bytes = data) -> str:
            async with connection(address) as (reader, writer):
                writer.write(data)
                writer.write_eof()
                return await read_outcome(reader, seconds)

        for answer, times in (await run_clients(max(1, count // 10), client)).items():
            result[f"{name}: {answer}"] += times
    return result


async def _reset(address: str, data: bytes) -> None:
    """Connect, send data, and reset the connection."""
    _, writer = await connect(address)
    writer.write(data)
    await asyncio.sleep(0.05)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def resets(address: str, count: int, seconds: float) -> Outcomes:
    """Reset connections in the header, in the body, before the answer and immediately, repeatedly."""
    loop = asyncio.get_running_loop()
    deadline, resets_sent = loop.time() + seconds, Counter[str]()

    async def client() -> str:
        while loop.time() < deadline:
            for data in (REQUEST[:30], REQUEST[:-9], REQUEST, b""):
                await _reset(address, data)
                resets_sent["reset by us"] += 1
            await asyncio.sleep(0.5)
        return "done"

    outcomes = await run_clients(max(1, count // 10), client)
    del outcomes["done"]
    return resets_sent + outcomes


async def malformed(address: str, count: int, seconds: float) -> Outcomes:  # noqa: ARG001
    """Send requests that are not HTTP, or ambiguous HTTP."""
    return await send_cases(address, 1, ((name, data) for name, (data, _) in MALFORMED.items()))
