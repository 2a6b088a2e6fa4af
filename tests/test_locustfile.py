"""The load generator's file, in processes of their own: importing Locust patches the one that does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from server.settings import ROOT

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
_DRAW = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("locustfile", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
draws = {name: module._draw(feature) for name, feature in json.load(sys.stdin).items()}
json.dump([{name: draw() for name, draw in draws.items()} for _ in range(300)], sys.stdout)
"""


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


def test_rows_are_drawn_within_the_ranges() -> None:
    """Every value has its feature's type and range, and the range is used in its whole width."""
    ran = subprocess.run(
        [sys.executable, "-c", _DRAW, str(FILE)],
        input=json.dumps(FEATURES), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    rows = json.loads(ran.stdout)
    assert len(rows) == 300
    assert all(is_valid(row) for row in rows)
    for name, values in {"small": {1, 2, 3, 4}, "below": {-7, -6, -5}, "perhaps": {10, 11, 12}}.items():
        assert {row[name] for row in rows} == values
    assert {row["flag"] for row in rows} == {True, False}


def locust(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    """One headless test. Its own limit is a while past what a test here takes."""
    command = [str(Path(sys.executable).parent / "locust"), "-f", str(FILE), "--headless", "--host", address]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=60)


def test_service_that_is_not_there() -> None:
    """A test against nobody ends by itself, with one line that says so and a status that is not 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        ran = locust(address, "--users", "5", "--spawn-rate", "5")
    assert ran.returncode == 1
    assert ran.stdout.count("\n") == 1
    assert ran.stdout.startswith(f"{address} does not describe its model: ")
    assert "Traceback" not in ran.stderr


class Service(BaseHTTPRequestHandler):
    """Describes FEATURES, and answers every second row without a prediction."""

    protocol_version = "HTTP/1.1"
    rows: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._answer({"components": {"schemas": {"Features": {"properties": FEATURES}}}})

    def do_POST(self) -> None:
        self.rows.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer({"prediction": 1} if len(self.rows) % 2 else {"oops": 1})

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (http.server's)
        pass


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    Service.rows = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_users_post_valid_rows_and_check_answers(service: ThreadingHTTPServer, tmp_path: Path) -> None:
    """Users post rows that the service described, and count 200 without a prediction as a failure."""
    address = f"http://127.0.0.1:{service.server_port}"
    options = ("--users", "4", "--spawn-rate", "4", "--run-time", "3s", "--json-file", str(tmp_path / "stats"))
    ran = locust(address, *options, "--exit-code-on-error", "0")
    assert ran.returncode == 0, ran.stderr
    assert len(Service.rows) >= 4
    assert all(is_valid(row) for row in Service.rows)
    (stats,) = json.loads((tmp_path / "stats.json").read_text())
    assert (stats["method"], stats["name"]) == ("POST", "/predict")
    assert 0 < stats["num_failures"] < stats["num_requests"]
