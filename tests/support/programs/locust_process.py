"""What the tests of the load generator stand on: a service that describes features, and Locust as a program."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from server.settings import ROOT
from tests.support.servers import serving_thread

FILE = ROOT / "locust/locustfile.py"
FEATURES: dict[str, dict[str, Any]] = {
    "small": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 4},
    "below": {"type": "integer", "format": "int64", "minimum": -7, "maximum": -5},
    "degrees": {"type": "number", "format": "double", "minimum": -0.5, "maximum": 0.25},
    "free": {"type": "number", "format": "float"},
    "flag": {"type": "boolean"},
    "word": {"type": "string"},
    "perhaps": {"type": ["integer", "null"], "minimum": 10, "maximum": 12},
    "maybe": {"type": ["string", "null"]},
}


def is_valid(row: dict[str, Any]) -> bool:
    """Whether a row fits FEATURES, types included: a bool is no number."""
    kinds = {"integer": int, "number": float, "boolean": bool, "string": str}
    for name, feature in FEATURES.items():
        kind = feature["type"] if isinstance(feature["type"], str) else feature["type"][0]
        value = row[name]
        if type(value) is not kinds[kind]:
            return False
        if "minimum" in feature and not feature["minimum"] <= value <= feature["maximum"]:
            return False
    return set(row) == set(FEATURES)


class Service(BaseHTTPRequestHandler):
    """Describes FEATURES, predicts, but not in every second answer where it is faulty, and never where it is busy."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._answer({"components": {"schemas": {"Features": {"properties": FEATURES}}}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, asked))
        answer: dict[str, object] = {"prediction": 1, "confidence": 0.5}
        if "instances" in asked and self.path == "/predict":
            count = len(asked["instances"])
            answer = {"predictions": [1] * count, "confidences": [0.5] * count}
        if self.server.busy:
            self.send_error(503)
            return
        if self.server.faulty and len(self.server.asked) % 2 == 0:
            answer = {}
        self._answer({**answer, "model_version": "1"})

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (http.server's)
        pass


class Server(ThreadingHTTPServer):
    """Where Service answers, and what it was asked: the path and the document of each request."""

    daemon_threads = True

    def __init__(self, *, faulty: bool, busy: bool) -> None:
        super().__init__(("127.0.0.1", 0), Service)
        self.faulty = faulty
        self.busy = busy
        self.asked: list[tuple[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_args: object) -> None:
        """A user that is stopped hangs up on its request."""


@contextmanager
def serving(*, faulty: bool = False, busy: bool = False) -> Iterator[Server]:
    """A service on a port of its own."""
    with serving_thread(Server(faulty=faulty, busy=busy)) as server:
        yield server


def master_port() -> str:
    """A port that nobody uses now, and that the system gives to no client before Locust's master listens there."""
    for port in random.sample(range(20000, 32000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)
    raise AssertionError("no port is free")


def workers(count: int) -> list[str]:
    """Options for as many processes beside the master; for none at 0."""
    port = master_port()
    return ["--processes", str(count), "--master-bind-port", port, "--master-port", port] if count else []


@dataclass(frozen=True)
class Ran:
    """How Locust ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of --record."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Those of one kind."""
        return [record for record in self.records if record["kind"] == kind]


@contextmanager
def started(*options: str, folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Locust in a process group of its own, of which nothing is left, and which has a minute."""
    command = [str(Path(sys.executable).parent / "locust"), "-f", str(FILE), *options]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = threading.Timer(60, _kill, [process.pid])
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        _kill(process.pid)
        with process:  # closes its pipes
            pass


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def finished(process: subprocess.Popen[str]) -> Ran:
    """Wait for the end; no process of its group may be left."""
    stdout, stderr = process.communicate()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        raise AssertionError(f"it left processes behind: {stderr}")
    return Ran(process.returncode, stdout, stderr)


def locust(address: str, *options: str) -> Ran:
    """One headless test."""
    with started("--headless", "--host", address, *options) as process:
        return finished(process)
