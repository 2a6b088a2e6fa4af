"""Why a request failed, in short names that stay the same, and why a test cannot start."""

from __future__ import annotations

import os
import socket
import ssl

from httptools import HttpParserError


class Failure(Exception):
    """A request that got no prediction. Locust shows it by its name."""

    def __repr__(self) -> str:
        return str(self)


class CannotStartError(Exception):
    """A test that would measure nothing, with a line that says why."""


# The first that fits.
_NAMES: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "timeout"),
    (ConnectionRefusedError, "refused"),
    (ConnectionResetError, "reset"),
    (BrokenPipeError, "reset"),
    (EOFError, "closed"),
    (HttpParserError, "malformed"),
    (socket.gaierror, "unknown host"),
    (ssl.SSLCertVerificationError, "unknown certificate"),
    (ssl.SSLEOFError, "closed"),
    (ssl.SSLZeroReturnError, "closed"),
    (ssl.SSLError, "no TLS"),
)


def name_of(error: BaseException) -> str:
    """The name of what a socket or a parser raised."""
    for kind, name in _NAMES:
        if isinstance(error, kind):
            return name
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__
