"""One kept-alive HTTP/1.1 connection that does little, so that thousands of them fit one core.

An answer's end is told by its head, as Nginx does; one that ends with its connection counts as broken off.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from gevent import Timeout  # type: ignore[import-untyped]
from httptools import HttpParserError, HttpResponseParser

from failures import Failure, name_of

_MOST_READ = 65536


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service listens, resolved once: 10,000 users would ask 10,000 times."""

    family: int
    place: tuple[str, int]
    host: str = ""
    tls: ssl.SSLContext | None = None

    @classmethod
    def find(cls, host: str, port: int, timeout: float, tls: ssl.SSLContext | None = None) -> Address:
        """The first of the host's addresses that takes a connection.

        Raises:
            OSError: none does.
        """
        with socket.create_connection((host, port), timeout) as connection:
            return cls(connection.family, connection.getpeername(), host, tls)


class Connection:
    """Made at its first request, and again when a request finds it closed."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; the status and the body of its answer.

        Raises:
            Failure: there was no whole answer in time.
        """
        try:
            # One limit for all of it: an answer that trickles in is late too.
            with Timeout(self._timeout, TimeoutError):
                return self._exchange(request)
        except (OSError, EOFError, HttpParserError) as error:
            self.close()
            raise Failure(name_of(error)) from None

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._socket is not None:
            try:
                return self._once(self._socket, request)
            except (ConnectionError, EOFError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                # A server may close an idle connection while a request is on its way: nothing was answered, and a
                # prediction changes nothing, so it is sent once more.
                if self._begun:
                    raise
                self.close()
        return self._once(self._connect(), request)

    def _connect(self) -> socket.socket:
        self._socket = socket.socket(self._address.family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect(self._address.place)
        if self._address.tls is not None:
            self._socket = self._address.tls.wrap_socket(self._socket, server_hostname=self._address.host)
        self._parser = HttpResponseParser(self)
        return self._socket

    def _once(self, connected: socket.socket, request: bytes) -> tuple[int, bytes]:
        self._begun = self._complete = False
        self._parts: list[bytes] = []
        # Nearly always all of it; gevent's sendall costs twice as much.
        sent = connected.send(request)
        if sent < len(request):
            connected.sendall(request[sent:])
        while not self._complete:
            data = connected.recv(_MOST_READ)
            if not data:
                raise EOFError
            self._begun = True
            self._parser.feed_data(data)
        if not self._kept:
            self.close()
        return self._parser.get_status_code(), b"".join(self._parts)

    # What the parser calls.

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The answer is there. The parser forgets after this call whether the server keeps the connection."""
        self._complete = True
        self._kept = self._parser.should_keep_alive()
