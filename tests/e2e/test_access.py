"""API keys on a real replica: every route and header, refusals before the body is read, and keys that change."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from server.http.api_keys import PUBLIC_PATHS
from server.http.app import create_app
from server.settings import Settings
from tests.support.models import saved_models
from tests.support.models.served_models import FakeEngine, served_model
from tests.support.stacks.local import Replica, launch
from tests.support.stress.load import WORKSHOP_ROW, Load, request_bytes
from tests.support.stress.rotation import WRITERS, Rotation, by_rename, headers_of, predict_status, seconds_until_status
from tests.support.waiting import wait_until

KEY = secrets.token_urlsafe(24)
MAX_DELAY_SECONDS = 5  # two on an idle machine
ASSET = {"/assets/swagger": "css/swagger-ui.css", "/assets/redoc": "js/redoc.standalone.js"}
VALID_HEADERS = [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}]
INVALID_HEADERS = [{}, {"Authorization": f"Bearer {KEY}x"}, {"X-API-Key": f"{KEY}x"}, {"Authorization": f"Basic {KEY}"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_models.covertype_forest(tmp_path_factory.mktemp("model") / "covertype")


@pytest.fixture(scope="module")
def running_replica(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A replica of two workers that requires an API key."""
    folder = tmp_path_factory.mktemp("replica")
    by_rename(folder / "keys", f"{KEY}\n")
    replica = launch(
        model,
        folder / "log",
        API_KEYS_FILE=str(folder / "keys"),
        WEB_CONCURRENCY="2",
        ENGINE="sklearn",
        HOST="127.0.0.1",
    )
    try:
        replica.wait_ready()
        yield replica
    finally:
        replica.stop()


@pytest.fixture
def keys(running_replica: Replica) -> Path:
    """The file of API keys."""
    return running_replica.log.with_name("keys")


@pytest.fixture
def replica(running_replica: Replica, keys: Path) -> Replica:
    """The replica with its first key as the only valid one."""
    by_rename(keys, f"{KEY}\n")
    seconds_until_status(running_replica.port, KEY, 200, times=16)
    return running_replica


def routes_of(name: str, version: str) -> list[tuple[str, str]]:
    """Return each method and path for which the application has a route."""
    app = create_app(Settings.from_env({}), served_model(FakeEngine()))._app
    assert isinstance(app, Starlette)
    pairs = []
    for route in app.routes:
        assert isinstance(route, Route | Mount)
        methods = sorted((route.methods if isinstance(route, Route) else None) or {"GET", "HEAD"})
        path = route.path.replace("{name}", name).replace("{version}", version)
        path += f"/{ASSET[path]}" if isinstance(route, Mount) else ""
        pairs += [(method, path) for method in methods]
    return pairs


def test_every_route_except_probes_requires_a_key(replica: Replica) -> None:
    """Every route of the application requires a valid key, except the routes for probes."""
    with httpx.Client(base_url=replica.address) as client:
        served = client.get("/health").json()["model"]
        routes = routes_of(served["name"], served["version"])
        assert {path for _, path in routes} > PUBLIC_PATHS
        for method, path in routes:
            without_key = [client.request(method, path, headers=headers).status_code for headers in INVALID_HEADERS]
            with_key = [client.request(method, path, headers=headers).status_code for headers in VALID_HEADERS]
            assert without_key == [200 if path in PUBLIC_PATHS else 401] * len(INVALID_HEADERS), (method, path)
            assert with_key == ([200] * 2 if method != "POST" else [with_key[0]] * 2), (method, path)
            assert with_key[0] in (200, 400, 415), (method, path)


def test_every_protocol_predicts_with_a_key(replica: Replica) -> None:
    """Each protocol predicts with a key in either header, on a connection whose last request was refused."""
    bodies = {"/predict": WORKSHOP_ROW, "/invocations": {"dataframe_records": [WORKSHOP_ROW]}}
    with httpx.Client(base_url=replica.address) as client:
        served = client.get("/health").json()["model"]
        tensor = {"name": "x", "shape": [1, 12], "datatype": "FP64", "data": list(WORKSHOP_ROW.values())}
        bodies[f"/v2/models/{served['name']}/infer"] = {"inputs": [tensor]}
        for path, body in bodies.items():
            for headers in VALID_HEADERS:
                assert client.post(path, json=body).status_code == 401
                assert client.post(path, json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1, 100_000, 1_000_000])
def test_connection_stays_usable_after_a_refusal(replica: Replica, size: int, chunked: bool) -> None:
    """After a refused request, whose body the server did not read, the next request on the connection is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=30)
    connection.connect()
    first_socket = connection.sock
    for _ in range(3):
        body = (b"x" * 10_000 for _ in range(-(-size // 10_000))) if chunked else b"x" * size
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"}, encode_chunked=chunked)
        refused = connection.getresponse()
        refused.read()
        assert refused.status == 401
        assert refused.getheader("X-Served-By")
        connection.request("GET", "/", headers=VALID_HEADERS[0])
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert connection.sock is first_socket
    connection.close()


def test_refusal_comes_before_the_body(replica: Replica) -> None:
    """A request without a key gets 401 before its body is sent, and the next request on the connection is answered."""
    head, body = request_bytes(WORKSHOP_ROW, replica.port).split(b"\r\n\r\n")
    valid_request = request_bytes(WORKSHOP_ROW, replica.port, close=True, headers=headers_of(KEY))
    with socket.create_connection(("127.0.0.1", replica.port), timeout=30) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")
        client.sendall(body + valid_request)
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 200 ")


def test_only_exact_probe_paths_are_open(replica: Replica) -> None:
    """Without a key only the path of a probe is open, in any equivalent form, but no path that resembles it."""
    open_targets = ("/health", "/%68ealth", "/health?x=1", f"http://127.0.0.1:{replica.port}/health")
    closed_targets = (
        "//health",
        "/health/",
        "/./health",
        "/health%2f..",
        "/health/../docs",
        "/health%00",
        "/%2568ealth",
    )
    for target in open_targets + closed_targets:
        connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=30)
        connection.putrequest("GET", target, skip_accept_encoding=True)
        connection.endheaders()
        assert connection.getresponse().status == (200 if target in open_targets else 401), target
        connection.close()


def test_rotation_under_load_fails_no_request(replica: Replica, keys: Path) -> None:
    """However the file is replaced, no request with a valid key fails, and an old key is soon refused."""
    with Load(replica.port, pause_seconds=0.05, headers=headers_of(KEY)) as load:
        rotation = Rotation(replica.port, keys, load, KEY)
        for write in WRITERS:
            rotation.rotate(write, times=8)
    assert load.counts.failed == 0, load.counts
    assert load.counts.answered > 2000
    assert max(rotation.slowest.values()) < MAX_DELAY_SECONDS, rotation.slowest


def workers(replica: Replica) -> set[int]:
    return {child.pid for child in psutil.Process(replica.process.pid).children()}


def test_bad_file_keeps_the_last_valid_keys(replica: Replica, keys: Path) -> None:
    """While the file is bad, the last valid keys apply, also in workers that are forked or reloaded meanwhile."""
    new = secrets.token_urlsafe(24)

    def statuses() -> list[int]:
        return [predict_status(replica.port, key) for key in (KEY, new, "x" * 20) for _ in range(16)]

    by_rename(keys, f"{KEY}\n{new}\n")
    seconds_until_status(replica.port, new, 200, times=16)
    by_rename(keys, "no key at all\n")
    wait_for_log(replica, "line 1: expected a key")
    old_workers = workers(replica)
    os.kill(sorted(old_workers)[0], signal.SIGKILL)
    wait_for_new_workers(replica, old_workers, 1)
    assert statuses() == [200] * 32 + [401] * 16
    old_workers = workers(replica)
    replica.process.send_signal(signal.SIGHUP)
    wait_for_new_workers(replica, old_workers, 2)
    assert statuses() == [200] * 32 + [401] * 16
    assert "no key at all" not in replica.log.read_text()


def wait_for_new_workers(replica: Replica, old_workers: set[int], count: int) -> None:
    """Wait until at least ``count`` of the two workers are new and both answer."""
    served: set[str] = set()

    def answered() -> bool:
        answer = httpx.get(f"{replica.address}/health")
        if answer.json()["worker"] in workers(replica):
            served.add(answer.headers["x-served-by"])
        return len(workers(replica)) == 2 and len(workers(replica) - old_workers) >= count and len(served) >= 2

    wait_until(answered, describe=replica.log.read_text)


def wait_for_log(replica: Replica, text: str) -> None:
    """Send requests, which make workers check the file of keys, until the log contains a text."""

    def logged() -> bool:
        predict_status(replica.port, KEY)
        return text in replica.log.read_text()

    wait_until(logged, seconds=30, pause=0, describe=replica.log.read_text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("secret words\n", "line 1: expected a key"), (None, "No such file"), ("", "expected at least one key, got none")],
)
def test_bad_file_stops_the_start(model: Path, tmp_path: Path, text: str | None, reason: str) -> None:
    """A replica with a bad file of keys does not start, and logs the reason in one line without the file's content."""
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    replica = launch(model, tmp_path / "log", API_KEYS_FILE=str(path))
    assert replica.process.wait(60) != 0
    lines = [line for line in replica.log.read_text().splitlines() if "forkcast: " in line]
    assert len(lines) == 1
    assert f"API_KEYS_FILE='{path}'" in lines[0]
    assert reason in lines[0]
    assert "secret" not in lines[0]
