"""End-to-end tests of a stack with API keys, TLS and limits per client."""

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
    """A stack of one replica with all access controls, which listens on all addresses."""
    folder = tmp_path_factory.mktemp("edge")
    new_stack = Edge(folder / "var")
    new_stack.environ = new_stack.secure_settings(folder, requests_per_second=5) | {
        "MODEL_URI": str(covertype_model),
        "HTTP_HOST": "0.0.0.0",  # noqa: S104
    }
    try:
        output = new_stack.make_ok("up")
        assert f"service  {new_stack.address} " in output
        assert '"Authorization: Bearer $API_KEY"' in output
        assert KEY not in output
        assert "other machines can reach" not in output
        yield new_stack
    finally:
        new_stack.make("down")


def test_prediction_needs_a_key(edge: Edge) -> None:
    """With a key, a client gets predictions over TLS by HTTP/2 and HTTP/1.1; without one, it gets 401."""
    for version in ("--http2", "--http1.1"):
        body = json.dumps(WORKSHOP_ROW)
        arguments = [
            "-H",
            f"X-API-Key: {KEY}",
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
            "-w",
            " %{http_version}",
        ]
        answer, _, http_version = edge.curl(version, *arguments, f"{edge.address}/predict").stdout.rpartition(" ")
        assert json.loads(answer)["prediction"] in range(1, 8)
        assert http_version == {"--http2": "2", "--http1.1": "1.1"}[version]
    with edge.client() as client:
        assert client.post("/predict", json=WORKSHOP_ROW).status_code == 200
        refused = client.post("/predict", json=WORKSHOP_ROW, headers={"Authorization": ""})
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
        assert client.get("/health", headers={"Authorization": ""}).status_code == 200


def test_old_protocols_and_suites_are_refused(edge: Edge) -> None:
    """A client that offers only TLS 1.1, or a suite without AEAD or forward secrecy, gets no connection."""
    for arguments in (
        ["--tls-max", "1.1"],
        ["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"],
        ["--tls-max", "1.2", "--ciphers", "AES128-GCM-SHA256:@SECLEVEL=0"],
    ):
        assert edge.curl(*arguments, f"{edge.address}/null").returncode == 35, arguments
    assert edge.curl("--tls-max", "1.2", f"{edge.address}/null").returncode == 0


def test_plain_port_redirects_reads_and_refuses_posts(edge: Edge) -> None:
    """Without TLS, GET and HEAD are redirected to HTTPS, and POST gets 403."""
    plain = f"http://127.0.0.1:{edge.port}"
    for method in ("GET", "HEAD"):
        answer = httpx.request(method, f"{plain}/docs?x=1")
        assert (answer.status_code, answer.headers["Location"]) == (308, f"{edge.address}/docs?x=1")
    answer = httpx.post(f"{plain}/predict", json=WORKSHOP_ROW)
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_plain_http_on_the_tls_port_gets_400(edge: Edge) -> None:
    """Plain HTTP on the TLS port gets 400 with a problem document."""
    answer = httpx.get(f"http://127.0.0.1:{edge.https_port}/docs")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "this port expects TLS: use https"


def own_address() -> str:
    """Return an address of this machine other_pair than loopback; skip the test if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no network on this machine")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("no network on this machine")
    return address


def test_requests_over_the_client_limit_get_429(edge: Edge) -> None:
    """Requests of one address over its limit get 429 with Retry-After; loopback has no limit."""
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
def test_locust_uses_the_certificate_and_the_key(edge: Edge, client: str) -> None:
    """Every type of user of the load generator trusts the certificate and sends the key."""
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


def test_rotated_keys_apply_without_a_restart(edge: Edge) -> None:
    """An added key is soon valid, and a removed key is not, without a restart."""
    with edge.client() as client:
        for valid, invalid in ((NEXT, KEY), (KEY, NEXT)):
            edge.rotate(valid)
            wait_for_status(client, invalid, 401)
            wait_for_status(client, valid, 200)


def test_renewed_certificate_is_served_after_up(edge: Edge) -> None:
    """After `make up` new connections get the renewed certificate, and open connections stay."""
    with edge.client() as client:
        client.get("/version")
        old_certificate = edge.served_certificate()
        pids = edge.pids()
        certificates.issue(edge.pair.cert.parent)
        edge.make_ok("up")
        assert client.get("/version").status_code == 200
    assert edge.pids() == pids
    assert edge.served_certificate() != old_certificate
    with edge.client() as client:
        assert client.get("/version").status_code == 200


def test_mismatched_key_is_refused(edge: Edge, tmp_path: Path) -> None:
    """A key that does not match the certificate is refused, and the stack answers; `make status` shows the controls."""
    other_pair = certificates.issue(tmp_path)
    assert "expected the key of TLS_CERT" in edge.make_error("up", f"TLS_CERT={other_pair.cert}")
    assert "API keys of " in (output := edge.make_ok("status"))
    assert "TLS until " in output
    assert KEY not in (edge.var / "stack.json").read_text()
    with edge.client() as client:
        assert client.get("/version").status_code == 200
