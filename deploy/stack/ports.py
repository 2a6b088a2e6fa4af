"""Whether a port may be listened on, asked of the kernel."""

from __future__ import annotations

import errno
import socket

from deploy.errors import CommandError

# For Nginx without and with TLS: the usual port, and the one where a user may not bind that.
HTTP = (80, 8080)
HTTPS = (443, 8443)


def default(host: str, usual: int, unprivileged: int) -> int:
    """Return the usual port, or the other one with a line that says so where this user may not bind it."""
    if _error(host, usual) != errno.EACCES:
        return usual
    print(f"port {usual} may not be bound by this user: Nginx listens on {unprivileged}")
    return unprivileged


def find_free() -> int:
    """One of this machine's own that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check_free(host: str, port: int, variable: str) -> None:
    """Nothing listens there, and we may.

    Raises:
        CommandError: naming the variable that moves us elsewhere.
    """
    check_unused(host, port, variable)
    if code := _error(host, port):
        reason = errno.errorcode.get(code, "unknown host")
        raise CommandError(f"{host}:{port} cannot be listened on: {reason}; see {variable}=")


def check_unused(host: str, port: int, variable: str) -> None:
    """Nothing listens there; somebody else, such as a container engine, will.

    Raises:
        CommandError: naming the variable that moves us elsewhere.
    """
    if _error(host, port) == errno.EADDRINUSE:
        raise CommandError(f"port {port} is in use by another program; choose another with {variable}=")


def _error(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As Nginx does: connections of the last run that are still winding up are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0
