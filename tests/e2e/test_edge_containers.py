"""End-to-end tests of a stack in containers with API keys, TLS and limits per client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.security.api_keys import CONTAINER_UID
from tests.support import certificates
from tests.support.stacks.containers import ContainerStack, require_engine
from tests.support.stacks.locked import KEY, NEXT, Edge, wait_for_status
from tests.support.stress.load import WORKSHOP_ROW
from tests.support.waiting import wait_until

REQUESTS_PER_SECOND = 10  # the limit of one address


class ContainerEdge(Edge, ContainerStack):
    """An :class:`Edge` in containers."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, covertype_model: Path) -> Iterator[ContainerEdge]:
    """A stack of one replica with all access controls."""
    require_engine()
    folder = tmp_path_factory.mktemp("edge")
    new_stack = ContainerEdge(folder / "var")
    limits = new_stack.secure_settings(folder, requests_per_second=REQUESTS_PER_SECOND)
    new_stack.environ = limits | new_stack.project_settings("test", MODEL_URI=covertype_model)
    try:
        output = new_stack.make_ok("up")
        assert f"service  {new_stack.address} " in output
        assert KEY not in output
        yield new_stack
    finally:
        new_stack.make("clean", "YES=1")


def test_prediction_in_containers_needs_a_key(edge: ContainerEdge) -> None:
    """A client needs a key for predictions; `make status` shows the access controls but no key."""
    with edge.client() as client:
        answer = client.post("/predict", json=WORKSHOP_ROW)
        assert answer.status_code == 200
        refused = client.post("/predict", json=WORKSHOP_ROW, headers={"Authorization": ""})
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
    assert "API keys of " in (output := edge.make_ok("status"))
    assert "TLS until " in output
    assert f"{REQUESTS_PER_SECOND} requests/s and 4 connections per client" in output
    assert KEY not in output + json.dumps(edge.containers("nginx") + edge.containers("server"))


def test_host_over_the_client_limit_gets_429(edge: ContainerEdge) -> None:
    """The host, which has the bridge's address, gets 429 for requests over its limit."""
    with edge.client() as client:
        for _ in range(100 * REQUESTS_PER_SECOND):
            if (answer := client.get("/version")).status_code != 200:
                break
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["title"] == "Too Many Requests"


def test_locust_container_has_no_client_limit(edge: ContainerEdge) -> None:
    """Locust exceeds the client limit on Nginx's internal port, over TLS with the key, and no request fails."""
    seconds = 6
    locust = ["python", "-m", "locust", "-f", "locust/locustfile.py", "--host", "https://nginx:8082", "--headless"]
    options = ["-u", "20", "-r", "20", "-t", f"{seconds}s", "--wait-min", "0.1", "--wait-max", "0.2"]
    ran = edge.docker(
        "exec", edge.containers("locust")[0]["Id"], *locust, *options, "--json", "--loglevel", "ERROR"
    )  # fmt: skip
    (row,) = json.loads(ran[ran.index("[") :])
    assert row["num_requests"] > REQUESTS_PER_SECOND * (seconds + 1)
    assert row["num_failures"] == 0


def test_rotated_keys_apply_without_new_containers(edge: ContainerEdge) -> None:
    """Replicas apply a file of keys that was replaced on the host, without new containers."""
    replicas = edge.replicas()
    with edge.client() as client:
        for valid, invalid in ((NEXT, KEY), (KEY, NEXT)):
            edge.rotate(valid)
            wait_for_status(client, invalid, 401)
            wait_for_status(client, valid, 200)
    assert edge.replicas() == replicas


def start_times(edge: ContainerEdge) -> list[tuple[str, str]]:
    """Return the id and the start time of the containers of Nginx and of the replica."""
    containers = edge.containers("nginx") + edge.containers("server")
    return [(container["Id"], container["State"]["StartedAt"]) for container in containers]


def test_renewed_certificate_is_served_by_the_running_nginx(edge: ContainerEdge) -> None:
    """After `make up` the running Nginx serves a renewed certificate, and open connections stay."""
    started, old_certificate = start_times(edge), edge.served_certificate()
    with edge.client() as client:
        client.get("/health")
        certificates.issue(edge.pair.cert.parent)
        edge.make_ok("up")
        assert client.get("/health").status_code == 200
    # Nginx checks the files once a second.
    wait_until(lambda: edge.served_certificate() != old_certificate, seconds=20, pause=0.2)
    assert start_times(edge) == started
    with edge.client() as client:
        assert client.post("/predict", json=WORKSHOP_ROW).status_code == 200


def test_unsuitable_folders_of_keys_are_refused(edge: ContainerEdge) -> None:
    """A folder of keys with other files, or that replicas cannot read, is refused in one line; the containers stay."""
    folder, started = edge.keys.parent, start_times(edge)
    extra_file = folder / "other"
    extra_file.write_text("an unrelated secret")
    assert "expected no other file there, got 'other'" in edge.make_error("up")
    extra_file.unlink()
    folder.chmod(0o700)
    assert f"replicas run as user and group {CONTAINER_UID}, who cannot read the file" in edge.make_error("up")
    folder.chmod(0o755)
    assert start_times(edge) == started
