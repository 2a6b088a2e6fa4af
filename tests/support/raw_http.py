"""HTTP requests over plain sockets, for request lines that client libraries refuse to send."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def ask(address: int | Path, line: str) -> tuple[int, dict[str, str], str]:
    """Send a request line to a port of 127.0.0.1 or to a Unix socket; return the status, the headers and the body.

    The names and values of the returned headers are in lower case.
    """
    is_port = isinstance(address, int)
    with socket.socket(socket.AF_INET if is_port else socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(("127.0.0.1", address) if is_port else str(address))
        client.sendall(f"{line} HTTP/1.1\r\nHost: forkcast\r\nConnection: close\r\n\r\n".encode("latin-1"))
        head, _, body = client.makefile("rb").read().decode().partition("\r\n\r\n")
    status, *lines = head.splitlines()
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@contextmanager
def short_path(path: Path) -> Iterator[Path]:
    """Yield a path to a Unix socket that fits into a socket address, however deep the socket's folder is."""
    handle = os.open(path.parent, os.O_PATH)
    try:
        yield Path(f"/proc/self/fd/{handle}/{path.name}")
    finally:
        os.close(handle)
