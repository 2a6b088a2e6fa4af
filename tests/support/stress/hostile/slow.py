"""Attacks by slow clients, which send or read one byte a second, or nothing."""

from __future__ import annotations

import asyncio

from tests.support.stress.hostile.wire import POST, Outcomes, connection, read_outcome, run_clients, small_buffer_socket


async def _drip(address: str, head: bytes, drop: bytes, seconds: float) -> str:
    """Send ``head`` and then ``drop`` every second, until the server answers or closes, or the time is over."""
    async with connection(address) as (reader, writer):
        writer.write(head)
        answer = asyncio.ensure_future(read_outcome(reader, seconds))
        for _ in range(int(seconds)):
            await asyncio.wait([answer], timeout=1)
            if answer.done():
                break
            writer.write(drop)
        else:
            answer.cancel()
            return "open"
        return await answer


async def slow_header(address: str, count: int, seconds: float) -> Outcomes:
    """Send a header at one byte a second."""
    return await run_clients(count, lambda: _drip(address, b"POST /predict HTTP/1.1\r\nX: ", b"x", seconds))


async def slow_body(address: str, count: int, seconds: float) -> Outcomes:
    """Send a body at one byte a second."""
    return await run_clients(count, lambda: _drip(address, POST + b"Content-Length: 500\r\n\r\n", b" ", seconds))


async def fat_slow_body(address: str, count: int, seconds: float) -> Outcomes:
    """Send most of a body of 1 MB at once, and then one byte a second."""
    head = POST + b"Content-Length: 1048576\r\n\r\n" + b" " * 1_000_000
    return await run_clients(count, lambda: _drip(address, head, b" ", seconds))


async def slow_reader(address: str, count: int, seconds: float) -> Outcomes:
    """Read a large answer at one byte a second."""
    loop = asyncio.get_running_loop()

    async def client() -> str:
        with await small_buffer_socket(address) as connected:
            await loop.sock_sendall(
                connected, b"GET /assets/swagger/js/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            for _ in range(int(seconds)):
                if not await loop.sock_recv(connected, 1):
                    return "closed"
                await asyncio.sleep(1)
            return "open"

    return await run_clients(count, client)


async def silent(address: str, count: int, seconds: float) -> Outcomes:
    """Open connections and send nothing."""

    async def client() -> str:
        async with connection(address) as (reader, _):
            return await read_outcome(reader, seconds)

    return await run_clients(count, client)
