"""Ask a running replica, or the balancer, a question over HTTP."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from deploy.errors import CommandError


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


def ask_address(address: str, method: str, target: str, document: object = None) -> tuple[int, Any]:
    """The same over TCP, with a JSON document as the body where there is one. Seconds to wait: 30."""
    parts = urlsplit(address)
    body = None if document is None else json.dumps(document).encode()
    return _ask(HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=30), method, target, body)


def _ask(connection: HTTPConnection, method: str, target: str, body: bytes | None) -> tuple[int, Any]:
    try:
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


def listens(address: str) -> bool:
    """Whether somebody accepts connections there."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), timeout=2).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Marks:
    """What every answer of a replica says of who gave it; empty where nobody did."""

    replica: str = ""
    version: str = ""


def marks(address: str) -> Marks:
    """Those of the answer to one request, on a connection of its own."""
    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=5)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        response.read()
        replica = str(response.getheader("X-Served-By", "")).partition("/")[0]
        return Marks(replica, str(response.getheader("X-Model-Version", "")))
    except (OSError, HTTPException):
        return Marks()
    finally:
        connection.close()


def predict_example(address: str) -> str | None:
    """Let the service predict its example; what should be known of the answer, if anything.

    Raises:
        CommandError: the model does not predict the example that it was logged with.
    """
    _, index = ask_address(address, "GET", "/")
    example = (index or {}).get("example", {}).get("POST /predict")
    status, answer = ask_address(address, "POST", "/predict", example)
    if status == 200:
        return None
    told = f"was answered with {status}: {(answer or {}).get('detail', 'no answer')}"
    if status in (422, 500) and (index or {}).get("note"):
        return f"an example made up from the model's columns {told}; log the model with input_example= to have its own"
    raise CommandError(f"the model's own example {told}; see make logs")
