"""A stack in containers with every lock on: keys, TLS and limits, as they come through mounts and a bridge."""

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

REQUESTS = 10  # a second, of one address


class ContainerEdge(Edge, ContainerStack):
    """An :class:`Edge` in containers."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, covertype_model: Path) -> Iterator[ContainerEdge]:
    """One replica behind every lock."""
    require_engine()
    folder = tmp_path_factory.mktemp("edge")
    one = ContainerEdge(folder / "var")
    one.environ = one.locks(folder, requests=REQUESTS) | one.own_settings("test", MODEL_URI=covertype_model)
    try:
        told = one.done("up")
        assert f"service  {one.address} " in told
        assert KEY not in told
        yield one
    finally:
        one.make("clean", "YES=1")


def test_prediction_in_containers_behind_every_lock(edge: ContainerEdge) -> None:
    """A client with the certificate and a key gets its prediction, one without 401; the locks are told, and no key."""
    with edge.client() as client:
        answer = client.post("/predict", json=WORKSHOP_ROW)
        assert answer.status_code == 200
        refused = client.post("/predict", json=WORKSHOP_ROW, headers={"Authorization": ""})
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
    assert "API keys of " in (told := edge.done("status"))
    assert "TLS until " in told
    assert f"{REQUESTS} requests/s and 4 connections a client" in told
    assert KEY not in told + json.dumps(edge.containers("nginx") + edge.containers("server"))


def test_limits_of_the_host_as_a_client(edge: ContainerEdge) -> None:
    """The host arrives with the bridge's address, and is refused with 429 what is beyond its limit."""
    with edge.client() as client:
        for _ in range(100 * REQUESTS):
            if (answer := client.get("/version")).status_code != 200:
                break
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["title"] == "Too Many Requests"


def test_locust_in_its_container_has_no_limits(edge: ContainerEdge) -> None:
    """By Nginx's inner door Locust asks for more than one client may, over TLS and with the key, and none fails."""
    seconds = 6
    locust = ["python", "-m", "locust", "-f", "locust/locustfile.py", "--host", "https://nginx:8082", "--headless"]
    options = ["-u", "20", "-r", "20", "-t", f"{seconds}s", "--wait-min", "0.1", "--wait-max", "0.2"]
    ran = edge.docker(
        "exec", edge.containers("locust")[0]["Id"], *locust, *options, "--json", "--loglevel", "ERROR"
    )  # fmt: skip
    (row,) = json.loads(ran[ran.index("[") :])
    assert row["num_requests"] > REQUESTS * (seconds + 1)
    assert row["num_failures"] == 0


def test_rotation_of_keys_in_containers(edge: ContainerEdge) -> None:
    """A file that takes the other's place on the host is followed by a replica that was not started anew."""
    before = edge.replicas()
    with edge.client() as client:
        for good, bad in ((NEXT, KEY), (KEY, NEXT)):
            edge.rotate(good)
            wait_for_status(client, bad, 401)
            wait_for_status(client, good, 200)
    assert edge.replicas() == before


def started(edge: ContainerEdge) -> list[tuple[str, str]]:
    """Which containers of Nginx and of the replica there are, and since when they run."""
    found = edge.containers("nginx") + edge.containers("server")
    return [(one["Id"], one["State"]["StartedAt"]) for one in found]


def test_renewed_certificate_in_containers(edge: ContainerEdge) -> None:
    """`make up` has a renewed certificate shown by the Nginx that runs, and cuts no connection that is open."""
    before, old = started(edge), edge.shown()
    with edge.client() as client:
        client.get("/health")
        certificates.issue(edge.pair.cert.parent)
        edge.done("up")
        assert client.get("/health").status_code == 200
    wait_until(lambda: edge.shown() != old, seconds=20, pause=0.2)  # Nginx looks at the files once a second
    assert started(edge) == before
    with edge.client() as client:
        assert client.post("/predict", json=WORKSHOP_ROW).status_code == 200


def test_folders_of_keys_that_containers_cannot_have(edge: ContainerEdge) -> None:
    """Keys with another file beside them, or that replicas may not read, are refused in a line, and nothing stops."""
    folder, before = edge.keys.parent, started(edge)
    other = folder / "other"
    other.write_text("a secret of somebody else's")
    assert "containers see its whole folder, which holds 'other' too" in edge.refused("up")
    other.unlink()
    folder.chmod(0o700)
    assert f"replicas run as user and group {CONTAINER_UID}, who may not read it" in edge.refused("up")
    folder.chmod(0o755)
    assert started(edge) == before
