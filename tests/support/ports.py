"""TCP ports of 127.0.0.1 that are free, refuse connections, or are in use."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


def free_ports(count: int) -> list[int]:
    """Return distinct ports on which no program listens now."""
    with ExitStack() as reserved:
        return [reserved.enter_context(refusing_port()) for _ in range(count)]


def free_port() -> int:
    """Return a port on which no program listens now."""
    return free_ports(1)[0]


@contextmanager
def refusing_port() -> Iterator[int]:
    """Reserve a port that refuses every connection until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        yield port


@contextmanager
def reserved_port() -> Iterator[int]:
    """Keep a port from all programs until the block ends, but for a server that is told to listen on it.

    The server must set SO_REUSEADDR, as Gunicorn does. A free port that is only looked up may be taken by a connection
    before a slow server listens on it.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port: int = reservation.getsockname()[1]
        yield port


@contextmanager
def port_in_use() -> Iterator[int]:
    """Listen on a port until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port: int = listener.getsockname()[1]
        yield port
