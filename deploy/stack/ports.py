"""Checks whether a port is free: they try to listen on it."""

from __future__ import annotations

import errno
import socket

from deploy.errors import CommandError

# Nginx's default ports, for users who may bind the first one and for those who may not.
HTTP = (80, 8080)
HTTPS = (443, 8443)


def default(host: str, standard: int, unprivileged: int) -> int:
    """Return the standard port, or print a line and return the unprivileged one if this user may not bind it."""
    if _bind_error(host, standard) != errno.EACCES:
        return standard
    print(f"this user may not listen on port {standard}: Nginx listens on {unprivileged}")
    return unprivileged


def find_free() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check_free(host: str, port: int, variable: str) -> None:
    """Check that this process can listen on a port.

    Raises:
        CommandError: it cannot; the message names the variable that sets the port.
    """
    check_unused(host, port, variable)
    if code := _bind_error(host, port):
        reason = errno.errorcode.get(code, "unknown host")
        raise CommandError(f"cannot listen on {host}:{port}: {reason}; choose another port with {variable}=")


def check_unused(host: str, port: int, variable: str) -> None:
    """Check that no program listens on a port that another one, such as Docker, will listen on.

    Raises:
        CommandError: the port is in use; the message names the variable that sets it.
    """
    if _bind_error(host, port) == errno.EADDRINUSE:
        raise CommandError(f"port {port} is in use by another program; choose another with {variable}=")


def _bind_error(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Nginx sets this too: connections in TIME_WAIT, of a server that has ended, do not keep the port in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0
