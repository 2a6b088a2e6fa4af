"""Ask a running replica, or the balancer, a question over HTTP."""

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

# What Nginx says to a client beyond its limits, and how often it is asked again, a second apart.
_TOO_MANY, _TRIES = 429, 10


@dataclass(frozen=True, slots=True)
class Access:
    """What a service with locks asks of a client: its certificate, to be known by it, and an API key."""

    certificate: Path | None = None
    key: str = ""

    @classmethod
    def of(cls, stack: Stack, layout: Layout, key: str = "") -> Access:
        """What this stack's Nginx shows, and the key that it is to be sent."""
        return cls(layout.tls_cert if stack.has_tls else None, key)

    def connect(self, address: str, timeout: float) -> HTTPConnection:
        """A connection that is not made yet.

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
        """Those of every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


OPEN = Access()


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask_socket(path: str, target: str, timeout: float = 5.0) -> tuple[int, Any]:
    """GET ``target`` from the replica that listens at ``path``: the status and the JSON document; status 0 for none."""
    return _ask(UnixConnection(path, timeout), "GET", target, None)


def ask_address(
    address: str, method: str, target: str, document: object = None, access: Access = OPEN
) -> tuple[int, Any]:
    """The same over TCP, with a JSON document as the body where there is one. Seconds to wait: 30."""
    body = None if document is None else json.dumps(document).encode()
    try:
        connection = access.connect(address, timeout=30)
    except (OSError, ValueError):
        return 0, None
    return _ask(connection, method, target, body, access)


def _ask(
    connection: HTTPConnection, method: str, target: str, body: bytes | None, access: Access = OPEN
) -> tuple[int, Any]:
    kind = {"Content-Type": "application/json"} if body else {}
    try:
        connection.request(method, target, body, access.headers | kind)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


def listens(address: str) -> bool:
    """Whether somebody accepts connections there."""
    parts = urlsplit(address)
    usual = 443 if parts.scheme == "https" else 80
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or usual), timeout=2).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Marks:
    """What every answer of a replica says of who gave it; empty where nobody did."""

    replica: str = ""
    version: str = ""


def marks(address: str, access: Access = OPEN) -> Marks:
    """Those of the answer to one request, on a connection of its own."""
    try:
        connection = access.connect(address, timeout=5)
    except (OSError, ValueError):
        return Marks()
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        response.read()
        if response.status == _TOO_MANY:
            time.sleep(1)
        replica = str(response.getheader("X-Served-By", "")).partition("/")[0]
        return Marks(replica, str(response.getheader("X-Model-Version", "")))
    except (OSError, HTTPException):
        return Marks()
    finally:
        connection.close()


def predict_example(address: str, access: Access = OPEN) -> str | None:
    """Let the service predict its example; what should be known of the answer, if anything.

    Raises:
        CommandError: the model does not predict the example that it was logged with.
    """
    _, index = _patiently(address, "GET", "/", None, access)
    example = (index or {}).get("example", {}).get("POST /predict")
    status, answer = _patiently(address, "POST", "/predict", example, access)
    if status == 200:
        return None
    told = f"was answered with {status}: {(answer or {}).get('detail', 'no answer')}"
    if status == _TOO_MANY:
        return f"the example {told}"
    if status in (422, 500) and (index or {}).get("note"):
        return f"an example made up from the model's columns {told}; log the model with input_example= to have its own"
    raise CommandError(f"the model's own example {told}; see make logs")


def _patiently(address: str, method: str, target: str, document: object, access: Access) -> tuple[int, Any]:
    """Ask again where this machine has asked too much of late, as containers see it, and its other clients have."""
    for _ in range(_TRIES):
        status, answer = ask_address(address, method, target, document, access)
        if status != _TOO_MANY:
            break
        time.sleep(1)
    return status, answer
