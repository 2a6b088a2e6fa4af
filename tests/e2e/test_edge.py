"""A stack with every lock on, as its clients meet it: API keys, TLS and limits per client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.security import tls
from deploy.stack.paths import ROOT
from tests.support import certificates
from tests.support.stacks.local import clean_environ
from tests.support.stacks.locked import KEY, NEXT, Edge, wait_for_status
from tests.support.stress.load import WORKSHOP_ROW


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, covertype_model: Path) -> Iterator[Edge]:
    """One replica behind every lock, on all addresses."""
    folder = tmp_path_factory.mktemp("edge")
    one = Edge(folder / "var")
    one.environ = one.locks(folder, requests=5) | {"MODEL_URI": str(covertype_model), "HTTP_HOST": "0.0.0.0"}  # noqa: S104
    try:
        told = one.done("up")
        assert f"service  {one.address} " in told
        assert '"Authorization: Bearer $API_KEY"' in told
        assert KEY not in told
        assert "others can reach it" not in told
        yield one
    finally:
        one.make("down")


def test_prediction_behind_every_lock(edge: Edge) -> None:
    """A client with the certificate and a key gets its prediction, by HTTP/2 and 1.1; without a key it is told how."""
    for version in ("--http2", "--http1.1"):
        body = json.dumps(WORKSHOP_ROW)
        words = [
            "-H",
            f"X-API-Key: {KEY}",
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
            "-w",
            " %{http_version}",
        ]
        answer, _, spoken = edge.curl(version, *words, f"{edge.address}/predict").stdout.rpartition(" ")
        assert json.loads(answer)["prediction"] in range(1, 8)
        assert spoken == {"--http2": "2", "--http1.1": "1.1"}[version]
    with edge.client() as client:
        assert client.post("/predict", json=WORKSHOP_ROW).status_code == 200
        refused = client.post("/predict", json=WORKSHOP_ROW, headers={"Authorization": ""})
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
        assert client.get("/health", headers={"Authorization": ""}).status_code == 200


def test_old_protocols_and_suites_are_refused(edge: Edge) -> None:
    """A client of TLS 1.1, or of a suite without authenticated encryption or forward secrecy, gets no connection."""
    for words in (
        ["--tls-max", "1.1"],
        ["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"],
        ["--tls-max", "1.2", "--ciphers", "AES128-GCM-SHA256:@SECLEVEL=0"],
    ):
        assert edge.curl(*words, f"{edge.address}/null").returncode == 35, words
    assert edge.curl("--tls-max", "1.2", f"{edge.address}/null").returncode == 0


def test_plain_port(edge: Edge) -> None:
    """Without TLS, those who only read are sent on, and those who send something are told not to."""
    plain = f"http://127.0.0.1:{edge.port}"
    for method in ("GET", "HEAD"):
        answer = httpx.request(method, f"{plain}/docs?x=1")
        assert (answer.status_code, answer.headers["Location"]) == (308, f"{edge.address}/docs?x=1")
    answer = httpx.post(f"{plain}/predict", json=WORKSHOP_ROW)
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_plain_http_on_the_port_of_tls(edge: Edge) -> None:
    """It is told as a problem document."""
    answer = httpx.get(f"http://127.0.0.1:{edge.https_port}/docs")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "this port speaks TLS: ask for https"


def own_address() -> str:
    """One of this machine's that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no network on this machine")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("no network on this machine")
    return address


def test_limits_of_a_client(edge: Edge) -> None:
    """Beyond what one address may ask for it gets 429, and when to come again; loopback gets all that it asks for."""
    with edge.client() as client:
        assert {client.get("/version").status_code for _ in range(40)} == {200}
    with edge.client(
        transport=httpx.HTTPTransport(verify=tls.pinned(edge.pair.cert), local_address=own_address())
    ) as client:
        answers = [client.get("/version") for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 200
    assert refused
    assert refused[0].headers["Retry-After"] == "1"
    assert refused[0].json()["title"] == "Too Many Requests"


@pytest.mark.parametrize("client", ["light", "fast", "batch"])
def test_locust_with_locks(edge: Edge, client: str) -> None:
    """Every user of the load generator knows the certificate and sends the key."""
    environ = clean_environ() | {"TLS_CERT": str(edge.pair.cert), "API_KEY": KEY}
    command = [str(Path(sys.executable).parent / "locust"), "-f", "locust/locustfile.py", "--headless", "--record"]
    options = ["--host", edge.address, "--client", client, "-u", "5", "-r", "5", "-t", "4s", "--wait-min", "0.1"]
    ran = subprocess.run(
        [*command, *options, "--wait-max", "0.2"],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    seconds = [line for line in map(json.loads, ran.stdout.splitlines()) if line["kind"] == "second"]
    assert sum(second["requests"] for second in seconds) > 0
    assert not any(second["failures"] for second in seconds), seconds


def test_rotation_of_keys(edge: Edge) -> None:
    """A key that is added is good soon after, one that is taken away is not, and no start is needed."""
    with edge.client() as client:
        for good, bad in ((NEXT, KEY), (KEY, NEXT)):
            edge.rotate(good)
            wait_for_status(client, bad, 401)
            wait_for_status(client, good, 200)


def test_renewal_of_the_certificate(edge: Edge) -> None:
    """`make up` has new connections shown a renewed certificate, and leaves those that are there alone."""
    with edge.client() as client:
        client.get("/version")
        before = edge.shown()
        pids = edge.pids()
        certificates.issue(edge.pair.cert.parent)
        edge.done("up")
        assert client.get("/version").status_code == 200
    assert edge.pids() == pids
    assert edge.shown() != before
    with edge.client() as client:
        assert client.get("/version").status_code == 200


def test_what_is_refused(edge: Edge, tmp_path: Path) -> None:
    """A pair that does not match is refused with a line, and what runs goes on; `make status` tells the locks."""
    other = certificates.issue(tmp_path)
    assert "it is not the key of TLS_CERT" in edge.refused("up", f"TLS_CERT={other.cert}")
    assert "API keys of " in (told := edge.done("status"))
    assert "TLS until " in told
    assert KEY not in (edge.var / "stack.json").read_text()
    with edge.client() as client:
        assert client.get("/version").status_code == 200
