"""End-to-end tests of monitoring in containers: Prometheus, its rules and alerts, and the dashboard."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from deploy.backends.docker.engine import MONITORING_SERVICES
from deploy.rollout.replica_client import request_json
from deploy.stack.paths import ROOT
from tests.support.ports import free_port
from tests.support.stacks.containers import ContainerStack, require_engine
from tests.support.stress.load import Load
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy/monitoring"
RUNNING = MONITORING_SERVICES[:-1]  # without Grafana, whose image may be unavailable
REPLICAS, WORKERS, CONNECTIONS = 3, 2, 16
PREDICTIONS_QUERY = 'sum(forkcast_requests_total{route="/predict"})'
# A query of this metric has no result without alerts.
MAY_BE_EMPTY = "ALERTS"

Sample = tuple[dict[str, str], float]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, covertype_model: Path) -> Iterator[ContainerStack]:
    """A stack of three replicas with two workers each, with monitoring."""
    require_engine()
    new_stack = ContainerStack(tmp_path_factory.mktemp("monitoring") / "var")
    new_stack.environ = new_stack.project_settings("monitoring", MODEL_URI=covertype_model) | {
        "WEB_CONCURRENCY": str(WORKERS),
        "PROMETHEUS_PORT": str(free_port()),
        "GRAFANA_PORT": str(free_port()),
    }
    try:
        assert new_stack.make_error("monitoring") == "error: nothing is running here; start it with: make up"
        new_stack.make_ok("up", f"N={REPLICAS}")
        output = new_stack.make_ok("monitoring")
        assert f"Prometheus http://127.0.0.1:{new_stack.environ['PROMETHEUS_PORT']}" in output
        assert "Grafana    http://127.0.0.1:" in output or "note: Prometheus runs without Grafana" in output
        yield new_stack
    finally:
        new_stack.make("clean", "YES=1")
        assert new_stack.leftovers() == []


@pytest.fixture(scope="module")
def prometheus(stack: ContainerStack) -> Callable[[str], Any]:
    """A function that requests data from Prometheus' API."""

    def get_data(target: str) -> Any:
        status, answer = request_json(
            f"http://127.0.0.1:{stack.environ['PROMETHEUS_PORT']}", "GET", f"/api/v1/{target}"
        )
        assert status == 200, (target, answer)
        assert answer["status"] == "success"
        return answer["data"]

    return get_data


Query = Callable[[str], list[Sample]]


@pytest.fixture(scope="module")
def query(prometheus: Callable[[str], Any]) -> Query:
    """A function that evaluates an expression now and returns the samples."""

    def evaluate(expression: str) -> list[Sample]:
        samples = prometheus(f"query?query={quote(expression)}")["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in samples]

    return evaluate


def wait_until_scraped(query: Query, since: float, replicas: int = REPLICAS) -> None:
    """Wait until Prometheus has scraped every replica after a time (seconds since the epoch)."""
    wait_until(lambda: query(f"count(timestamp(forkcast_workers) > {since})") == [({}, replicas)], pause=0.5)


def addresses(stack: ContainerStack) -> set[str]:
    """Return the addresses of the replicas, from the engine."""
    networks = [container["NetworkSettings"]["Networks"].values() for container in stack.containers("server")]
    return {f"{network['IPAddress']}:8000" for of_container in networks for network in of_container}


def targets(prometheus: Callable[[str], Any]) -> dict[str, str]:
    """Return the state, such as "up", of each replica that Prometheus scrapes, by address."""
    active = prometheus("targets?state=active")["activeTargets"]
    return {
        target["labels"]["instance"]: target["health"] for target in active if target["labels"]["job"] == "forkcast"
    }


@pytest.fixture(scope="module")
def loaded(stack: ContainerStack, query: Query) -> tuple[Load, float]:
    """A load during which a worker was killed, and the number of its requests that Prometheus counted."""
    wait_until_scraped(query, time.time())
    ((_, initial),) = query(PREDICTIONS_QUERY)
    container = stack.containers("server")[0]["Id"]
    with Load(stack.port, connections=CONNECTIONS) as load:
        load.wait_for(500)
        worker = stack.replica_health(container)["worker"]
        stack.docker("exec", container, "sh", "-c", f"kill -9 {worker}")
        load.wait_for(1000)
    wait_until_scraped(query, time.time())
    ((_, final),) = query(PREDICTIONS_QUERY)
    return load, final - initial


def test_prometheus_scrapes_every_replica(stack: ContainerStack, prometheus: Callable[[str], Any]) -> None:
    """Prometheus finds all replicas by the name of their service and scrapes each."""
    wait_until(lambda: targets(prometheus) == dict.fromkeys(addresses(stack), "up"), pause=0.5)
    assert len(targets(prometheus)) == REPLICAS


def test_prometheus_counts_the_answers_of_the_client(loaded: tuple[Load, float]) -> None:
    """The replicas' counts add up to the client's answers, except for requests in flight in a killed worker."""
    load, counted = loaded
    assert load.counts.failed == 0
    assert len(load.counts.replicas) == REPLICAS
    assert abs(counted - load.counts.answered) <= CONNECTIONS
    assert counted > 1000


@pytest.mark.usefixtures("loaded")
def test_killed_worker_is_replaced(stack: ContainerStack, query: Query) -> None:
    """After a worker was killed, the number of workers is complete again, and no container was restarted."""
    wait_until(lambda: query("sum(forkcast_workers)") == [({}, REPLICAS * WORKERS)], pause=0.5)
    assert query("sum(forkcast_pending_rows)") == [({}, 0)]
    assert [container["RestartCount"] for container in stack.containers("server")] == [0] * REPLICAS


def expressions() -> list[str]:
    """Return every query of the dashboard: of panels, variables and annotations."""
    dashboard = json.loads((FOLDER / "grafana/dashboards/forkcast.json").read_text())
    queries = [target for panel in dashboard["panels"] for target in panel["targets"]]
    queries += dashboard["templating"]["list"] + dashboard["annotations"]["list"]
    return [entry["expr"] for entry in queries]


@pytest.mark.usefixtures("loaded")
def test_every_dashboard_query_has_data(query: Query) -> None:
    """After some traffic, each query of the dashboard has a result without NaN."""
    queries = [expression.replace("$__rate_interval", "2m") for expression in expressions()]
    assert not [query_text for query_text in queries if "$" in query_text]
    # Recording rules are evaluated some seconds after the samples that they need.
    required = [query_text for query_text in queries if MAY_BE_EMPTY not in query_text]
    wait_until(lambda: all(map(query, required)), seconds=20, pause=0.5)
    assert not [query_text for query_text in queries if any(math.isnan(value) for _, value in query(query_text))]


def test_rules_are_evaluated_and_no_alert_fires(prometheus: Callable[[str], Any]) -> None:
    """Prometheus evaluates every rule without an error, and no alert fires for a healthy stack."""

    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), pause=0.5)
    assert {(rule["health"], rule.get("lastError", "")) for rule in rules()} == {("ok", "")}
    assert {rule["state"] for rule in rules() if rule["type"] == "alerting"} == {"inactive"}


def test_configuration_and_rules_pass_promtool(stack: ContainerStack) -> None:
    """Promtool accepts the configuration and the rules, whose unit tests pass, and the container has both files."""
    image = f"{stack.project}-prometheus"
    promtool = ["run", "--rm", "--network", "none", "--volume", f"{FOLDER}:/check:ro", image, "promtool"]
    stack.docker(*promtool, "check", "config", "--lint=all", "--lint-fatal", "/check/prometheus.yml")
    stack.docker(*promtool, "test", "rules", "/check/rules_test.yml")
    container = stack.containers("prometheus")[0]["Id"]
    for name in ("prometheus.yml", "rules.yml"):
        assert stack.docker("exec", container, "cat", f"/etc/prometheus/{name}") == (FOLDER / name).read_text().strip()


def test_only_this_machine_reaches_prometheus(stack: ContainerStack) -> None:
    """Prometheus listens only on loopback, and the exporter and Nginx's status page are not published."""
    port = int(stack.environ["PROMETHEUS_PORT"])
    services = (*RUNNING, "nginx")
    published = {service: stack.containers(service)[0]["HostConfig"]["PortBindings"] for service in services}
    assert published == {
        "prometheus": {"9090/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]},
        "nginx-exporter": {},
        "nginx": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]},
    }
    # The address of the engine's bridge stands for an external address of this machine.
    (bridge,) = json.loads(stack.docker("network", "inspect", "bridge"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((bridge["IPAM"]["Config"][0]["Gateway"], port), timeout=5)


@pytest.mark.parametrize(
    "target", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/./metrics?x=1", "/stub_status"]
)
def test_metrics_are_not_available_through_nginx(stack: ContainerStack, target: str) -> None:
    """Nginx answers 404 for the metrics of replicas and its own status page."""
    assert stack.get(target)[0] == 404


def test_monitoring_containers_have_minimal_privileges(stack: ContainerStack) -> None:
    """Each container runs as an ordinary user without capabilities, with little memory and a read-only file system."""
    for service in RUNNING:
        (container,) = stack.containers(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert 0 < host["Memory"] <= 512 << 20
        assert stack.docker("exec", container["Id"], "id", "-u") != "0"
        stack.docker("exec", container["Id"], "sh", "-c", "! touch /etc/probe /tmp/probe 2>/dev/null")


def test_prometheus_follows_scaling(stack: ContainerStack, prometheus: Callable[[str], Any]) -> None:
    """After scaling, Prometheus scrapes exactly the current replicas."""
    stack.make_ok("scale", "N=2")
    wait_until(lambda: targets(prometheus) == dict.fromkeys(addresses(stack), "up"), pause=0.5)
    assert len(targets(prometheus)) == 2


def test_verbs_include_monitoring(stack: ContainerStack) -> None:
    """`make status`, `stats` and `logs` show monitoring, and `make up` restarts a stopped service of it."""
    page = f"Prometheus http://127.0.0.1:{stack.environ['PROMETHEUS_PORT']}"
    assert page in stack.make_ok("status")
    assert f"{stack.project}-prometheus-1" in stack.make_ok("stats")
    assert "Server is ready to receive web requests" in stack.make_ok("logs", "S=prometheus")
    ids = [stack.containers(service)[0]["Id"] for service in RUNNING]
    stack.docker("stop", f"{stack.project}-nginx-exporter-1")
    assert (
        f"{stack.project}-nginx-exporter-1 is stopped, and the replicas go on serving; start it with: make up"
        in stack.make_ok("status")
    )
    stack.make_ok("up")
    assert stack.containers("nginx-exporter")[0]["State"]["Status"] == "running"
    assert [stack.containers(service)[0]["Id"] for service in RUNNING] == ids
    stack.make_ok("down")
    assert {line.split()[0] for line in stack.leftovers()} == {"volume", "image"}
