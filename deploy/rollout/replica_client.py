"""HTTP requests to a running replica, or to the stack through Nginx."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.errors import CommandError
from deploy.security import tls
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack

# The status with which Nginx refuses a client beyond its limits, and how many requests are sent, a second apart.
_TOO_MANY_REQUESTS, _ATTEMPTS = 429, 10


@dataclass(frozen=True, slots=True)
class Access:
    """The certificate that a client trusts and the API key that it sends; both are optional."""

    certificate: Path | None = None
    key: str = ""

    @classmethod
    def of(cls, stack: Stack, layout: Layout, key: str = "") -> Access:
        """Return the access to a stack: the certificate that its Nginx presents, if it has one, and this key."""
        return cls(layout.tls_cert if stack.has_tls else None, key)

    def connect(self, address: str, timeout: float) -> HTTPConnection:
        """Return a connection that opens with its first request.

        Raises:
            OSError, ValueError: the certificate cannot be read.
        """
        parts = urlsplit(address)
        host = parts.hostname or "127.0.0.1"
        if parts.scheme != "https" or self.certificate is None:
            return HTTPConnection(host, parts.port or 80, timeout=timeout)
        return HTTPSConnection(host, parts.port or 443, timeout=timeout, context=tls.pinned(self.certificate))

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


OPEN_ACCESS = Access()


class UnixConnection(HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the path of the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get_json_over_socket(path: str, target: str, timeout: float = 5.0) -> tuple[int, Any]:
    """Send GET to the replica that listens at ``path``; return the status (0 for no answer) and the JSON document."""
    return _request(UnixConnection(path, timeout), "GET", target, None)


def request_json(
    address: str, method: str, target: str, document: object = None, access: Access = OPEN_ACCESS
) -> tuple[int, Any]:
    """Send an optional JSON document within 30 s; return the status (0 for no answer) and the JSON document."""
    body = None if document is None else json.dumps(document).encode()
    try:
        connection = access.connect(address, timeout=30)
    except (OSError, ValueError):
        return 0, None
    return _request(connection, method, target, body, access)


def _request(
    connection: HTTPConnection, method: str, target: str, body: bytes | None, access: Access = OPEN_ACCESS
) -> tuple[int, Any]:
    content_type = {"Content-Type": "application/json"} if body else {}
    try:
        connection.request(method, target, body, access.headers | content_type)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


def listens(address: str) -> bool:
    """Return whether a server accepts connections at this address."""
    parts = urlsplit(address)
    default_port = 443 if parts.scheme == "https" else 80
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or default_port), timeout=2).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Identity:
    """The names of the replica and of the model version that gave an answer; empty if no replica answered."""

    replica: str = ""
    version: str = ""


def identify(address: str, access: Access = OPEN_ACCESS) -> Identity:
    """Send one request on a new connection; return which replica and model version answered it."""
    try:
        connection = access.connect(address, timeout=5)
    except (OSError, ValueError):
        return Identity()
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        response.read()
        if response.status == _TOO_MANY_REQUESTS:
            time.sleep(1)
        replica = str(response.getheader("X-Served-By", "")).partition("/")[0]
        return Identity(replica, str(response.getheader("X-Model-Version", "")))
    except (OSError, HTTPException):
        return Identity()
    finally:
        connection.close()


def predict_example(address: str, access: Access = OPEN_ACCESS) -> str | None:
    """Make the service predict its example; return a note if it could not and that is not the model's fault.

    Raises:
        CommandError: the model does not predict the example that it was logged with.
    """
    _, index = _request_with_retries(address, "GET", "/", None, access)
    example = (index or {}).get("example", {}).get("POST /predict")
    status, answer = _request_with_retries(address, "POST", "/predict", example, access)
    if status == 200:
        return None
    outcome = f"got status {status}: {(answer or {}).get('detail', 'no detail')}" if status else "got no answer"
    if status == _TOO_MANY_REQUESTS:
        return f"the example request {outcome}"
    if status in (422, 500) and (index or {}).get("note"):
        return (
            f"an example generated from the model's columns {outcome}; log the model with input_example= to avoid this"
        )
    raise CommandError(f"the model's own example {outcome}; see make logs")


def _request_with_retries(address: str, method: str, target: str, document: object, access: Access) -> tuple[int, Any]:
    """Repeat a request while Nginx refuses it because clients of this machine exceeded the limit of their address."""
    for _ in range(_ATTEMPTS):
        status, answer = request_json(address, method, target, document, access)
        if status != _TOO_MANY_REQUESTS:
            break
        time.sleep(1)
    return status, answer
