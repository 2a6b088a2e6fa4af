"""A stack that is watched, in containers: Prometheus counts what clients count, and the dashboard has all to show."""

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

from deploy.backends.docker.engine import MONITORING
from deploy.rollout.replica_client import request_json
from deploy.stack.paths import ROOT
from tests.support.ports import free_port
from tests.support.stacks.containers import ContainerStack, require_engine
from tests.support.stress.load import Load
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy/monitoring"
RUNNING = MONITORING[:-1]  # Grafana's image may not be had
REPLICAS, WORKERS, CONNECTIONS = 3, 2, 16
COUNTED = 'sum(forkcast_requests_total{route="/predict"})'
# It is empty where all is well.
MAY_BE_EMPTY = "ALERTS"

Sample = tuple[dict[str, str], float]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, covertype_model: Path) -> Iterator[ContainerStack]:
    """Three replicas of two workers, and what watches them."""
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
        told = new_stack.make_ok("monitoring")
        assert f"Prometheus http://127.0.0.1:{new_stack.environ['PROMETHEUS_PORT']}" in told
        assert "Grafana    http://127.0.0.1:" in told or "note: Grafana is left out" in told
        yield new_stack
    finally:
        new_stack.make("clean", "YES=1")
        assert new_stack.leftovers() == []


@pytest.fixture(scope="module")
def asked(stack: ContainerStack) -> Callable[[str], Any]:
    """What Prometheus answers under its API."""

    def one(target: str) -> Any:
        status, answer = request_json(
            f"http://127.0.0.1:{stack.environ['PROMETHEUS_PORT']}", "GET", f"/api/v1/{target}"
        )
        assert status == 200, (target, answer)
        assert answer["status"] == "success"
        return answer["data"]

    return one


Ask = Callable[[str], list[Sample]]


@pytest.fixture(scope="module")
def query(asked: Callable[[str], Any]) -> Ask:
    """The samples of an expression, now."""

    def one(expression: str) -> list[Sample]:
        found = asked(f"query?query={quote(expression)}")["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    return one


def read_since(query: Ask, moment: float, replicas: int = REPLICAS) -> None:
    """Wait until every replica was read after a moment."""
    wait_until(lambda: query(f"count(timestamp(forkcast_workers) > {moment})") == [({}, replicas)], pause=0.5)


def addresses(stack: ContainerStack) -> set[str]:
    """Where the replicas are, as the engine says."""
    networks = [one["NetworkSettings"]["Networks"].values() for one in stack.containers("server")]
    return {f"{network['IPAddress']}:8000" for found in networks for network in found}


def targets(asked: Callable[[str], Any]) -> dict[str, str]:
    """The replicas that Prometheus reads, and whether they are well."""
    found = asked("targets?state=active")["activeTargets"]
    return {one["labels"]["instance"]: one["health"] for one in found if one["labels"]["job"] == "forkcast"}


@pytest.fixture(scope="module")
def loaded(stack: ContainerStack, query: Ask) -> tuple[Load, float]:
    """A load under which a worker was killed, and how many answers Prometheus counted of it."""
    read_since(query, time.time())
    ((_, before),) = query(COUNTED)
    container = stack.containers("server")[0]["Id"]
    with Load(stack.port, connections=CONNECTIONS) as load:
        load.wait_for(500)
        worker = stack.replica_health(container)["worker"]
        stack.docker("exec", container, "sh", "-c", f"kill -9 {worker}")
        load.wait_for(1000)
    read_since(query, time.time())
    ((_, after),) = query(COUNTED)
    return load, after - before


def test_every_replica_is_read(stack: ContainerStack, asked: Callable[[str], Any]) -> None:
    """Prometheus finds all replicas by the name of their service, and reads each."""
    wait_until(lambda: targets(asked) == dict.fromkeys(addresses(stack), "up"), pause=0.5)
    assert len(targets(asked)) == REPLICAS


def test_counts_are_those_of_the_client(loaded: tuple[Load, float]) -> None:
    """The replicas' counts add up to what the client got, but for what a killed worker was about to answer."""
    load, counted = loaded
    assert load.counts.failed == 0
    assert len(load.counts.replicas) == REPLICAS
    assert abs(counted - load.counts.answered) <= CONNECTIONS
    assert counted > 1000


@pytest.mark.usefixtures("loaded")
def test_killed_worker_is_replaced(stack: ContainerStack, query: Ask) -> None:
    """After a kill all workers are counted again, no more and no fewer, in the container that there was."""
    wait_until(lambda: query("sum(forkcast_workers)") == [({}, REPLICAS * WORKERS)], pause=0.5)
    assert query("sum(forkcast_pending_rows)") == [({}, 0)]
    assert [one["RestartCount"] for one in stack.containers("server")] == [0] * REPLICAS


def expressions() -> list[str]:
    """Every query that the dashboard makes: of panels, of variables, of annotations."""
    dashboard = json.loads((FOLDER / "grafana/dashboards/forkcast.json").read_text())
    asking = [target for panel in dashboard["panels"] for target in panel["targets"]]
    asking += dashboard["templating"]["list"] + dashboard["annotations"]["list"]
    return [one["expr"] for one in asking]


@pytest.mark.usefixtures("loaded")
def test_dashboard_has_everything_to_show(query: Ask) -> None:
    """Each query of the dashboard is answered, after some traffic with figures."""
    asking = [expression.replace("$__rate_interval", "2m") for expression in expressions()]
    assert not [one for one in asking if "$" in one]
    # What a rule records is there a moment after what it was made of.
    wait_until(lambda: not [one for one in asking if not query(one) and MAY_BE_EMPTY not in one], seconds=20, pause=0.5)
    assert not [one for one in asking if any(math.isnan(value) for _, value in query(one))]


def test_rules_are_computed(asked: Callable[[str], Any]) -> None:
    """Prometheus computes every rule without an error, and no alert tells of a stack that is well."""

    def rules() -> list[dict[str, Any]]:
        return [rule for group in asked("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), pause=0.5)
    assert {(rule["health"], rule.get("lastError", "")) for rule in rules()} == {("ok", "")}
    assert {rule["state"] for rule in rules() if rule["type"] == "alerting"} == {"inactive"}


def test_rules_hold(stack: ContainerStack) -> None:
    """Prometheus' own program finds no fault with its configuration and rules, and each alert does as its test says."""
    image = f"{stack.project}-prometheus"
    promtool = ["run", "--rm", "--network", "none", "--volume", f"{FOLDER}:/check:ro", image, "promtool"]
    stack.docker(*promtool, "check", "config", "--lint=all", "--lint-fatal", "/check/prometheus.yml")
    stack.docker(*promtool, "test", "rules", "/check/rules_test.yml")
    container = stack.containers("prometheus")[0]["Id"]
    for name in ("prometheus.yml", "rules.yml"):
        assert stack.docker("exec", container, "cat", f"/etc/prometheus/{name}") == (FOLDER / name).read_text().strip()


def test_only_this_machine_reaches_prometheus(stack: ContainerStack) -> None:
    """Prometheus listens on the loopback alone, its exporter nowhere outside the network, like Nginx's page."""
    port = int(stack.environ["PROMETHEUS_PORT"])
    published = {one: stack.containers(one)[0]["HostConfig"]["PortBindings"] for one in (*RUNNING, "nginx")}
    assert published == {
        "prometheus": {"9090/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]},
        "nginx-exporter": {},
        "nginx": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]},
    }
    # The machine as others see it: the address of the engine's bridge.
    (bridge,) = json.loads(stack.docker("network", "inspect", "bridge"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((bridge["IPAM"]["Config"][0]["Gateway"], port), timeout=5)


@pytest.mark.parametrize(
    "target", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/./metrics?x=1", "/stub_status"]
)
def test_metrics_are_not_for_clients(stack: ContainerStack, target: str) -> None:
    """What replicas and Nginx tell of themselves is not to be had through Nginx."""
    assert stack.get(target)[0] == 404


def test_containers_may_do_next_to_nothing(stack: ContainerStack) -> None:
    """What watches runs as an ordinary user without capabilities, with little memory, and writes its data alone."""
    for service in RUNNING:
        (container,) = stack.containers(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert 0 < host["Memory"] <= 512 << 20
        assert stack.docker("exec", container["Id"], "id", "-u") != "0"
        stack.docker("exec", container["Id"], "sh", "-c", "! touch /etc/probe /tmp/probe 2>/dev/null")


def test_replicas_are_followed(stack: ContainerStack, asked: Callable[[str], Any]) -> None:
    """After a change of their number, exactly those replicas are read that there are."""
    stack.make_ok("scale", "N=2")
    wait_until(lambda: targets(asked) == dict.fromkeys(addresses(stack), "up"), pause=0.5)
    assert len(targets(asked)) == 2


def test_verbs_know_what_watches(stack: ContainerStack) -> None:
    """`make status`, `stats` and `logs` show it; `make up` brings back what is stopped alone, `make down` stops all."""
    page = f"Prometheus http://127.0.0.1:{stack.environ['PROMETHEUS_PORT']}"
    assert page in stack.make_ok("status")
    assert f"{stack.project}-prometheus-1" in stack.make_ok("stats")
    assert "Server is ready to receive web requests" in stack.make_ok("logs", "S=prometheus")
    before = [stack.containers(service)[0]["Id"] for service in RUNNING]
    stack.docker("stop", f"{stack.project}-nginx-exporter-1")
    assert f"{stack.project}-nginx-exporter-1 is stopped: make up starts it" in stack.make_ok("status")
    stack.make_ok("up")
    assert stack.containers("nginx-exporter")[0]["State"]["Status"] == "running"
    assert [stack.containers(service)[0]["Id"] for service in RUNNING] == before
    stack.make_ok("down")
    assert {line.split()[0] for line in stack.leftovers()} == {"volume", "image"}
