"""A bounded, constant load from many keep-alive connections that counts all answers and failures.

It is strict on purpose: a connection that breaks during a request is a failed request, and no request is retried.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from deploy.security import tls
from tests.support.waiting import wait_until

WORKSHOP_ROW = {
    "elevation": 2596,
    "aspect": 51,
    "slope": 3,
    "horizontal_distance_to_hydrology": 258,
    "vertical_distance_to_hydrology": 0,
    "horizontal_distance_to_roadways": 510,
    "hillshade_9am": 221,
    "hillshade_noon": 232,
    "hillshade_3pm": 148,
    "horizontal_distance_to_fire_points": 6279,
    "wilderness_area": 1,
    "soil_type": 29,
}


@dataclass
class Counts:
    """Answers by status, worker, model version, and version with prediction; errors, and all latencies (ms).

    The version is that of the answer's header, or ``header/body`` where the two differ.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    served_by: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    predictions: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """The number of answers with status 200."""
        return self.statuses[200]

    @property
    def failed(self) -> int:
        """The number of requests with another status or without an answer."""
        return sum(self.statuses.values()) - self.answered + len(self.broken)

    @property
    def replicas(self) -> Counter[str]:
        """The number of answers by replica."""
        total: Counter[str] = Counter()
        for name, count in self.served_by.items():
            total[name.partition("/")[0]] += count
        return total


def request_bytes(document: object, port: int, *, close: bool = False, headers: str = "") -> bytes:
    """Return a POST /predict request; ``headers`` are further header lines, each ending with CRLF."""
    body = json.dumps(document).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n" + ("Connection: close\r\n" if close else "") + headers
    return head.encode() + b"\r\n" + body


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, counts: Counts) -> None:
    started = time.perf_counter()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    counts.milliseconds.append(1000 * (time.perf_counter() - started))
    counts.statuses[int(status_line.split()[1])] += 1
    version = headers.get("x-model-version", "?")
    body_version = body.rpartition(b'"model_version":"')[2].rstrip(b'"}').decode()
    counts.versions[version if version == body_version else f"{version}/{body_version}"] += 1
    counts.predictions[version, body.partition(b",")[0].rpartition(b":")[2].decode()] += 1
    counts.served_by[headers.get("x-served-by", "?")] += 1
    if headers.get("connection", "").lower() == "close":
        raise EOFError


# Options of a load of about 300 requests a second, which leaves CPU time for commands.
LOW_RATE: dict[str, Any] = {"connections": 32, "pause_seconds": 0.1}


class Load:
    """A thread with many clients that post until the block ends or ``max_requests`` were sent.

    Each client pauses for ``pause_seconds`` after each answer, which leaves CPU time for other processes.
    """

    def __init__(
        self,
        port: int,
        connections: int = 64,
        max_requests: int = 200_000,
        document: object = None,
        *,
        pause_seconds: float = 0,
        headers: str = "",
        secure: ssl.SSLContext | None = None,
    ) -> None:
        self.counts = Counts()
        self._port = port
        self._secure = secure
        self._connections = connections
        self._max_requests = max_requests
        self._pause_seconds = pause_seconds
        self._document = document or WORKSHOP_ROW
        self.set_headers(headers)
        self._sent = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def set_headers(self, headers: str) -> None:
        """Send these header lines with each request from now on."""
        self._request = request_bytes(self._document, self._port, headers=headers)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_for(self, answers: int, seconds: float = 60) -> None:
        """Wait until this many more requests were answered with 200."""
        target = self.counts.answered + answers
        wait_until(
            lambda: self.counts.answered >= target or not self._thread.is_alive(),
            seconds,
            describe=lambda: f"{self.counts.statuses}, {self.counts.broken[:3]}",
        )

    def join(self) -> None:
        """Wait until ``max_requests`` were sent."""
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._connections)))

    async def _client(self) -> None:
        while not self._done():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._secure)
            except OSError as error:
                self.counts.broken.append(f"connect: {error!r}")
                await asyncio.sleep(0.05)
                continue
            try:
                while not self._done():
                    self._sent += 1
                    await _exchange(reader, writer, self._request, self.counts)
                    if self._pause_seconds:
                        await asyncio.sleep(self._pause_seconds)
            except EOFError as error:
                if isinstance(error, asyncio.IncompleteReadError):
                    self.counts.broken.append(f"read: {error!r}")
            except (OSError, ValueError, KeyError) as error:
                self.counts.broken.append(f"read: {error!r}")
            finally:
                writer.close()

    def _done(self) -> bool:
        return self._stopping.is_set() or self._sent >= self._max_requests


def post_once_each(port: int, count: int) -> Counts:
    """Send ``count`` requests, one after another, each on a new connection, and count the answers."""

    async def run() -> Counts:
        counts = Counts()
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await _exchange(reader, writer, request_bytes(WORKSHOP_ROW, port, close=True), counts)
            except asyncio.IncompleteReadError as error:
                counts.broken.append(repr(error))
            except EOFError:
                pass
            finally:
                writer.close()
                await writer.wait_closed()
        return counts

    return asyncio.run(run())


def security_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return options of :class:`Load` for a command: send API_KEY, and trust TLS_CERT if PORT speaks TLS.

    A load does not respect limits per client: a stack in containers must have none.
    """
    key, certificate = environ.get("API_KEY"), environ.get("TLS_CERT")
    return {
        "headers": f"Authorization: Bearer {key}\r\n" if key else "",
        "secure": tls.pinned(Path(certificate)) if certificate else None,
    }


def main() -> None:
    """Run as `python -m tests.support.stress.load PORT [REQUESTS]`: post WORKSHOP_ROW on 64 connections."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m tests.support.stress.load PORT [REQUESTS]")
    port, max_requests = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    with Load(port, max_requests=max_requests, **security_options(os.environ)) as load:
        load.join()
    print(f"{load.counts.answered} answered, {load.counts.failed} failed")
    for name, count in sorted(load.counts.served_by.items()):
        print(f"  {name}: {count}")


if __name__ == "__main__":
    main()
