"""End-to-end tests of the manifests of the overlay `demo`, run by plain Docker instead of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.checks.kubernetes import manifests
from deploy.rollout.replica_client import request_json
from tests.support.ports import free_port
from tests.support.stacks.containers import ContainerStack, require_engine
from tests.support.stacks.kubelet import Cluster, docker
from tests.support.stress.load import WORKSHOP_ROW, Load
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

PORT = free_port()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[Cluster]:
    """A cluster with a registry, a trained model, one replica and Nginx."""
    require_engine()
    if (reason := manifests.missing()) and not os.environ.get("REQUIRE_KUBECTL"):
        pytest.skip(reason)
    images = ContainerStack(tmp_path_factory.mktemp("images") / "var")
    images.environ = {"BACKEND": "docker", "COMPOSE_PROJECT_NAME": f"forkcast-test-{images.port}"}
    rows = ("-v", f"{covertype_csv}:/rows.csv:ro", "-e", "COVERTYPE_PATH=/rows.csv")
    folder = tmp_path_factory.mktemp("cluster")
    folder.chmod(0o755)
    new_cluster = Cluster(
        f"forkcast-pods-{images.port}",
        manifests.render(manifests.OVERLAYS / "demo"),
        images.environ["COMPOSE_PROJECT_NAME"],
        folder,
    )
    try:
        images.docker("compose", "build", "--quiet", "server", "model", "nginx", "locust")
        with new_cluster.up():
            new_cluster.start("mlflow", "mlflow")
            assert "covertype version 1 is @champion" in new_cluster.run_job("train", *rows)
            new_cluster.start("nginx", "nginx", "--publish", f"127.0.0.1:{PORT}:8080")
            new_cluster.start("server", "server-1")
            # Nginx resolves addresses every second.
            wait_until(lambda: request_json(f"http://127.0.0.1:{PORT}", "GET", "/ready")[0] == 200, seconds=120)
            yield new_cluster
    finally:
        images.make("clean", "YES=1")


def test_pods_answer_through_nginx(cluster: Cluster) -> None:
    """The init container provides the model, the replica serves it, and Nginx resolves the replica's full name."""
    status, answer = request_json(f"http://127.0.0.1:{PORT}", "POST", "/predict", WORKSHOP_ROW)
    assert (status, answer["model_version"]) == (200, "1")
    resolver = docker("exec", f"{cluster.name}-nginx", "grep", "^resolver ", "/tmp/upstream.conf")  # noqa: S108
    assert resolver.split()[1] == cluster.dns


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_every_probe_succeeds(cluster: Cluster, probe: str) -> None:
    """Every probe of every running pod succeeds."""
    for name, pod in cluster.running.items():
        assert cluster.probe_succeeds(pod, name, probe), name


def test_train_job_applied_again_adds_no_version(cluster: Cluster) -> None:
    """The training Job, applied again, finds the model and registers no version."""
    docker("rm", f"{cluster.name}-train")
    assert cluster.run_job("train").startswith("covertype version 1 is ready to be served")


def test_locust_worker_finds_its_master(cluster: Cluster) -> None:
    """Locust's worker connects to its master by the Service's name."""
    cluster.start("locust", "locust")
    cluster.start("locust-worker", "worker")
    master = f"http://{cluster.address('locust')}:8089"
    wait_until(lambda: (request_json(master, "GET", "/stats/requests")[1] or {}).get("workers"), seconds=120)
    statistics = request_json(master, "GET", "/stats/requests")[1]
    assert [worker["state"] for worker in statistics["workers"]] == ["ready"]


def test_locust_finds_nginx(cluster: Cluster) -> None:
    """Locust's users can reach Nginx's internal port."""
    code = "import os, urllib.request as r; print(r.urlopen(os.environ['SERVICE'] + '/null').status)"
    assert docker("exec", f"{cluster.name}-locust", "python", "-c", code) == "200"


def test_rolling_update_fails_no_request(cluster: Cluster) -> None:
    """Starting a new replica, removing the old one from the DNS and stopping it fails no request; it exits with 0."""
    with Load(PORT, connections=16) as load:
        load.wait_for(200)
        cluster.start("server", "server-2")
        load.wait_for(200)
        status, _ = cluster.stop("server-1", withdrawn=3)
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    assert len(load.counts.replicas) == 2
    assert status == 0
