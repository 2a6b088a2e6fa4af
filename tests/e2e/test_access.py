"""API keys on a real replica: every route, every way to send a key, bodies nobody reads, and keys that change."""

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
from tests.support.stress.rotation import WAYS, Rotation, by_rename, headers_of, seconds_until, status
from tests.support.waiting import wait_until

KEY = secrets.token_urlsafe(24)
PATIENCE = 5  # seconds, of a machine that does much else: without that it is two
ASSET = {"/assets/swagger": "css/swagger-ui.css", "/assets/redoc": "js/redoc.standalone.js"}
GOOD = [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}]
BAD = [{}, {"Authorization": f"Bearer {KEY}x"}, {"X-API-Key": f"{KEY}x"}, {"Authorization": f"Basic {KEY}"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_models.covertype_forest(tmp_path_factory.mktemp("model") / "covertype")


@pytest.fixture(scope="module")
def started(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """Two workers that ask for a key."""
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
def keys(started: Replica) -> Path:
    """The file of keys."""
    return started.log.with_name("keys")


@pytest.fixture
def replica(started: Replica, keys: Path) -> Replica:
    """The replica, with the one key again."""
    by_rename(keys, f"{KEY}\n")
    seconds_until(started.port, KEY, 200, times=16)
    return started


def requests_of(name: str, version: str) -> list[tuple[str, str]]:
    """Every method and path that the application has a route for."""
    app = create_app(Settings.from_env({}), served_model(FakeEngine()))._app
    assert isinstance(app, Starlette)
    found = []
    for route in app.routes:
        assert isinstance(route, Route | Mount)
        methods = sorted((route.methods if isinstance(route, Route) else None) or {"GET", "HEAD"})
        path = route.path.replace("{name}", name).replace("{version}", version)
        path += f"/{ASSET[path]}" if isinstance(route, Mount) else ""
        found += [(method, path) for method in methods]
    return found


def test_every_route(replica: Replica) -> None:
    """Every route that the application has is closed without a good key, and open with one, but those for probes."""
    with httpx.Client(base_url=replica.address) as client:
        served = client.get("/health").json()["model"]
        routes = requests_of(served["name"], served["version"])
        assert {path for _, path in routes} > PUBLIC_PATHS
        for method, path in routes:
            bad = [client.request(method, path, headers=headers).status_code for headers in BAD]
            good = [client.request(method, path, headers=headers).status_code for headers in GOOD]
            assert bad == ([200] * len(BAD) if path in PUBLIC_PATHS else [401] * len(BAD)), (method, path)
            assert good == ([200] * 2 if method != "POST" else [good[0]] * 2), (method, path)
            assert good[0] in (200, 400, 415), (method, path)


def test_predictions_by_every_protocol(replica: Replica) -> None:
    """With a key in either header each protocol predicts, on the connection that was just refused."""
    bodies = {"/predict": WORKSHOP_ROW, "/invocations": {"dataframe_records": [WORKSHOP_ROW]}}
    with httpx.Client(base_url=replica.address) as client:
        served = client.get("/health").json()["model"]
        tensor = {"name": "x", "shape": [1, 12], "datatype": "FP64", "data": list(WORKSHOP_ROW.values())}
        bodies[f"/v2/models/{served['name']}/infer"] = {"inputs": [tensor]}
        for path, body in bodies.items():
            for headers in GOOD:
                assert client.post(path, json=body).status_code == 401
                assert client.post(path, json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1, 100_000, 1_000_000])
def test_a_connection_stays_good_after_a_refusal(replica: Replica, size: int, chunked: bool) -> None:
    """A body that nobody read does not end the connection: what is sent next on it is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=30)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        body = (b"x" * 10_000 for _ in range(-(-size // 10_000))) if chunked else b"x" * size
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"}, encode_chunked=chunked)
        refused = connection.getresponse()
        refused.read()
        assert refused.status == 401
        assert refused.getheader("X-Served-By")
        connection.request("GET", "/", headers=GOOD[0])
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert connection.sock is first
    connection.close()


def test_a_refusal_comes_before_the_body(replica: Replica) -> None:
    """Who has no key is told so while the body is still to come, and the rest of the connection is as it should be."""
    head, body = request_bytes(WORKSHOP_ROW, replica.port).split(b"\r\n\r\n")
    good = request_bytes(WORKSHOP_ROW, replica.port, close=True, headers=headers_of(KEY))
    with socket.create_connection(("127.0.0.1", replica.port), timeout=30) as one:
        one.sendall(head + b"\r\n\r\n")
        assert one.recv(65536).startswith(b"HTTP/1.1 401 ")
        one.sendall(body + good)
        answers = b"".join(iter(lambda: one.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 200 ")


def test_spellings_of_paths_on_the_wire(replica: Replica) -> None:
    """Only the very path of a probe is open, however a client writes another one that resembles it."""
    spellings = {"/health": 200, "/%68ealth": 200, "/health?x=1": 200, f"http://127.0.0.1:{replica.port}/health": 200}
    closed = ("//health", "/health/", "/./health", "/health%2f..", "/health/../docs", "/health%00", "/%2568ealth")
    for target, wanted in (spellings | dict.fromkeys(closed, 401)).items():
        connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=30)
        connection.putrequest("GET", target, skip_accept_encoding=True)
        connection.endheaders()
        assert connection.getresponse().status == wanted, target
        connection.close()


def test_keys_that_change_under_load(replica: Replica, keys: Path) -> None:
    """However the file is changed, no request with a good key fails, and an old key is refused soon after."""
    with Load(replica.port, rest=0.05, headers=headers_of(KEY)) as load:
        rotation = Rotation(replica.port, keys, load, KEY)
        for write in WAYS:
            rotation.turn(write, times=8)
    assert load.counts.failed == 0, load.counts
    assert load.counts.answered > 2000
    assert max(rotation.slowest.values()) < PATIENCE, rotation.slowest


def workers(replica: Replica) -> set[int]:
    return {child.pid for child in psutil.Process(replica.process.pid).children()}


def test_a_bad_file_keeps_the_last_good_keys(replica: Replica, keys: Path) -> None:
    """While the file is bad its last good keys are asked for, also by workers that are forked or reloaded then."""
    new = secrets.token_urlsafe(24)
    by_rename(keys, f"{KEY}\n{new}\n")
    seconds_until(replica.port, new, 200, times=16)
    by_rename(keys, "no key at all\n")
    wait_for_log(replica, "line 1: expected a key")
    before = workers(replica)
    os.kill(sorted(before)[0], signal.SIGKILL)
    assert forked_anew(replica, before, 1)
    assert [status(replica.port, key) for key in (KEY, new, "x" * 20) for _ in range(16)] == [200] * 32 + [401] * 16
    before = workers(replica)
    replica.process.send_signal(signal.SIGHUP)
    assert forked_anew(replica, before, 2)
    assert [status(replica.port, key) for key in (KEY, new, "x" * 20) for _ in range(16)] == [200] * 32 + [401] * 16
    assert "no key at all" not in replica.log.read_text()


def forked_anew(replica: Replica, before: set[int], count: int) -> bool:
    """Whether that many workers come in place of others, and answer."""
    served: set[str] = set()

    def answered() -> bool:
        answer = httpx.get(f"{replica.address}/health")
        if answer.json()["worker"] in workers(replica):
            served.add(answer.headers["x-served-by"])
        return len(workers(replica)) == 2 and len(workers(replica) - before) >= count and len(served) >= 2

    return wait_until(answered, describe=replica.log.read_text)


def wait_for_log(replica: Replica, words: str) -> None:
    """Send requests until the log has these words: the file of keys is looked at when a request comes."""

    def logged() -> bool:
        status(replica.port, KEY)
        return words in replica.log.read_text()

    wait_until(logged, seconds=30, pause=0, describe=replica.log.read_text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("secret words\n", "line 1: expected a key"), (None, "No such file"), ("", "expected at least one key, got none")],
)
def test_a_bad_file_stops_the_start(model: Path, tmp_path: Path, text: str | None, words: str) -> None:
    """A replica whose file of keys is bad does not start, and says why in one line without what the file has."""
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    replica = launch(model, tmp_path / "log", API_KEYS_FILE=str(path))
    assert replica.process.wait(60) != 0
    lines = [line for line in replica.log.read_text().splitlines() if "forkcast: " in line]
    assert len(lines) == 1
    assert f"API_KEYS_FILE='{path}'" in lines[0]
    assert words in lines[0]
    assert "secret" not in lines[0]
