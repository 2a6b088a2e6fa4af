"""Helpers for tests of the load generator: a fake service that describes features, and Locust processes."""

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
    "degrees": {"type": "number", "format": "double", "minimum": -90, "maximum": 90, "x-observed": [-0.5, 0.25]},
    "free": {"type": "number", "format": "float"},
    "flag": {"type": "boolean"},
    "word": {"type": "string"},
    "perhaps": {"type": ["integer", "null"], "minimum": 10, "maximum": 12},
    "maybe": {"type": ["string", "null"]},
}


def is_valid(row: dict[str, Any]) -> bool:
    """Return whether a row fits FEATURES, including types: a bool does not count as a number."""
    types = {"integer": int, "number": float, "boolean": bool, "string": str}
    for name, feature in FEATURES.items():
        type_name = feature["type"] if isinstance(feature["type"], str) else feature["type"][0]
        value = row[name]
        if type(value) is not types[type_name]:
            return False
        low, high = feature.get("x-observed", (feature.get("minimum"), feature.get("maximum")))
        if low is not None and not low <= value <= high:
            return False
    return set(row) == set(FEATURES)


class Service(BaseHTTPRequestHandler):
    """A request handler that describes FEATURES and predicts.

    Every second prediction of a faulty server is an empty object; a busy server answers all predictions with 503.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._answer({"components": {"schemas": {"Features": {"properties": FEATURES}}}})

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, document))
        answer: dict[str, object] = {"prediction": 1, "confidence": 0.5}
        if "instances" in document and self.path == "/predict":
            count = len(document["instances"])
            answer = {"predictions": [1] * count, "confidences": [0.5] * count}
        if self.server.busy:
            self.send_error(503)
            return
        if self.server.faulty and len(self.server.requests) % 2 == 0:
            answer = {}
        self._answer({**answer, "model_version": "1"})

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name in http.server)
        pass


class Server(ThreadingHTTPServer):
    """A server of Service that records the path and the JSON document of each POST request in ``requests``."""

    daemon_threads = True

    def __init__(self, *, faulty: bool, busy: bool) -> None:
        super().__init__(("127.0.0.1", 0), Service)
        self.faulty = faulty
        self.busy = busy
        self.requests: list[tuple[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_args: object) -> None:
        """Ignore errors: a stopped user closes its connection during a request."""


@contextmanager
def running_service(*, faulty: bool = False, busy: bool = False) -> Iterator[Server]:
    """Run a service on a free port until the block ends."""
    with serving_thread(Server(faulty=faulty, busy=busy)) as server:
        yield server


def master_port() -> str:
    """Return a free port below the ephemeral range, so that no client gets it before Locust's master listens on it."""
    for port in random.sample(range(20000, 32000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)
    raise AssertionError("no port is free")


def worker_options(count: int) -> list[str]:
    """Return Locust's options for a master and ``count`` worker processes, or no options for 0."""
    port = master_port()
    return ["--processes", str(count), "--master-bind-port", port, "--master-port", port] if count else []


@dataclass(frozen=True)
class LocustResult:
    """The exit status and the output of a Locust process."""

    status: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records that ``--record`` printed, one JSON object per line."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def records_of(self, record_kind: str) -> list[dict[str, Any]]:
        """Return the records with this value of the field ``kind``."""
        return [record for record in self.records if record["kind"] == record_kind]


@contextmanager
def locust_process(*options: str, folder: Path | None = None, file: Path = FILE) -> Iterator[subprocess.Popen[str]]:
    """Start Locust in its own process group, which is killed when the block ends, or after a minute."""
    command = [str(Path(sys.executable).parent / "locust"), "-f", str(file), *options]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    timer = threading.Timer(60, _kill, [process.pid])
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        _kill(process.pid)
        with process:  # to close its pipes
            pass


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def wait_for_exit(process: subprocess.Popen[str]) -> LocustResult:
    """Wait until Locust exits, and assert that its process group is empty."""
    stdout, stderr = process.communicate()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        raise AssertionError(f"Locust left processes behind: {stderr}")
    return LocustResult(process.returncode, stdout, stderr)


def run_locust(address: str, *options: str, file: Path = FILE) -> LocustResult:
    """Run a headless test against an address and wait until it ends."""
    with locust_process("--headless", "--host", address, *options, file=file) as process:
        return wait_for_exit(process)
