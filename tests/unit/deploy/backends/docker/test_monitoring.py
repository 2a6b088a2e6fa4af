"""Tests of `make monitoring`: what it starts, refuses, and leaves out, with a fake `docker` command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.backends.docker import monitoring
from deploy.backends.docker.backend import DockerBackend
from deploy.backends.docker.engine import MONITORING_SERVICES, Compose
from deploy.backends.local.backend import LocalBackend
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack
from tests.support.fake_docker import FakeDocker, config, container
from tests.support.options import options
from tests.support.ports import free_ports, port_in_use
from tests.support.refusals import refusal

PORTS = ("PROMETHEUS_PORT", "GRAFANA_PORT")
UP = Stack(1, "127.0.0.1", 8080, 8089, 1, {}, "1G", "docker")
IMAGES = {"prometheus": "forkcast-prometheus", "nginx-exporter": "forkcast-prometheus", "grafana": "grafana/grafana:1"}
STACK = [container(service, folder=str(ROOT)) for service in ("server", "nginx", "locust", "locust-worker")]
MONITORING = [container(service, folder=str(ROOT)) for service in MONITORING_SERVICES]


def running(engine: FakeDocker, services: list[dict[str, Any]]) -> None:
    """Run the stack's containers and these, of which the first two are inspected together."""
    engine.containers(*STACK, *services)
    for documents in (services[:2], [*STACK, *services]):
        engine.answer("inspect", *(document["Id"] for document in documents), out=documents)


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine with all images and a running stack, on which monitoring services run as soon as they start."""
    docker.start_engine()
    document = config()
    document["services"] |= {service: {"image": image} for service, image in IMAGES.items()}
    docker.answer("compose", "config", out=document)
    running(docker, MONITORING)
    for command in ("build", "up", "rm", "run"):
        docker.answer("compose", command)
    return docker


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "var")
    layout.make()
    Record(UP).save(layout)
    return layout


@pytest.fixture
def unused_ports() -> dict[str, str]:
    """Two ports that no program listens on, by variable."""
    return {name: str(port) for name, port in zip(PORTS, free_ports(2), strict=True)}


@pytest.fixture
def used_port() -> Iterator[str]:
    """A port that another program listens on."""
    with port_in_use() as port:
        yield str(port)


def started(engine: FakeDocker) -> list[list[str]]:
    return [call[call.index("--no-build") + 1 :] for call in engine.ran("compose", "up")]


def test_prometheus_is_healthy_when_grafana_starts(
    engine: FakeDocker, layout: Layout, unused_ports: dict[str, str]
) -> None:
    """Prometheus is built and ready before Grafana starts, and the record keeps monitoring and its ports."""
    pages = DockerBackend(layout, options(**unused_ports)).monitoring()
    assert [call[5:] for call in engine.ran("compose", "build")] == [["build", "prometheus"]]
    assert started(engine) == [["prometheus", "nginx-exporter"], ["grafana"]]
    assert engine.ran("pull") == []
    ports = [int(port) for port in unused_ports.values()]
    assert list(pages.items()) == [
        ("Prometheus", f"http://127.0.0.1:{ports[0]}"),
        ("Grafana", f"http://127.0.0.1:{ports[1]}"),
    ]
    assert Record.load(layout) == Record(replace(UP, monitoring=True, prometheus_port=ports[0], grafana_port=ports[1]))
    prometheus_ports = {call.environ["PROMETHEUS_PORT"] for call in engine.calls if "--no-build" in call.arguments}
    assert prometheus_ports == {str(ports[0])}


def test_monitoring_changes_no_other_setting(layout: Layout, unused_ports: dict[str, str]) -> None:
    """Settings other than the ports are ignored, so that monitoring does not change the stack."""
    DockerBackend(layout, options(**unused_ports, N="3", CPUS="2", ENGINE="sklearn")).monitoring()
    record = Record.load(layout)
    assert record is not None
    assert (record.wanted.replicas, record.wanted.cpus, record.wanted.environment) == (1, 1, {})


def test_prometheus_runs_without_grafana_image(
    engine: FakeDocker, layout: Layout, unused_ports: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """If Grafana's image cannot be pulled, Prometheus runs alone and one line says why."""
    engine.answer("image", "inspect", "grafana/grafana:1", err="no such image\n", status=1)
    engine.answer("pull", err="no such host\n", status=1)
    running(engine, MONITORING[:2])
    assert list(DockerBackend(layout, options(**unused_ports)).monitoring()) == ["Prometheus"]
    assert started(engine) == [["prometheus", "nginx-exporter"]]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "note: Prometheus runs without Grafana: docker pull --quiet: no such host"
    )


def test_published_images_are_pulled(engine: FakeDocker, layout: Layout, unused_ports: dict[str, str]) -> None:
    """A stack of published images is monitored by a published image."""
    Record(replace(UP, environment={"IMAGE": "registry.example.com/forkcast"})).save(layout)
    engine.answer("image", "inspect", "forkcast-prometheus", status=1)
    engine.answer("pull")
    DockerBackend(layout, options(**unused_ports)).monitoring()
    assert engine.ran("pull") == [["pull", "--quiet", "forkcast-prometheus"]]
    assert engine.ran("compose", "build") == []


def test_failed_prometheus_leaves_the_stack_unchanged(
    engine: FakeDocker, layout: Layout, unused_ports: dict[str, str]
) -> None:
    """If Prometheus does not start, its containers are removed and the record does not change."""
    engine.answer("compose", "up", err="no room\n", status=1)
    assert refusal(DockerBackend(layout, options(**unused_ports)).monitoring).endswith("no room")
    (removed,) = engine.ran("compose", "rm")
    assert removed[5:] == ["rm", "--stop", "--force", *MONITORING_SERVICES]
    assert Record.load(layout) == Record(UP)


def test_failed_change_keeps_existing_monitoring(engine: FakeDocker, layout: Layout) -> None:
    """A failed change does not stop monitoring that ran before."""
    Record(replace(UP, monitoring=True)).save(layout)
    engine.answer("compose", "up", err="no room\n", status=1)
    assert refusal(DockerBackend(layout, options()).monitoring).endswith("no room")
    assert engine.ran("compose", "rm") == []


@pytest.mark.parametrize("name", PORTS)
def test_used_port_is_named_with_its_variable(
    name: str, engine: FakeDocker, layout: Layout, unused_ports: dict[str, str], used_port: str
) -> None:
    """A port that another program uses is refused before anything is built; the error names the variable."""
    error = refusal(DockerBackend(layout, options(**unused_ports | {name: used_port})).monitoring)
    assert error == f"port {used_port} is in use by another program; choose another with {name}="
    assert engine.ran("compose", "build") == started(engine) == []


def test_ports_of_running_monitoring_are_accepted(layout: Layout, used_port: str) -> None:
    """Monitoring may keep the ports that it listens on itself."""
    Record(replace(UP, monitoring=True, prometheus_port=int(used_port))).save(layout)
    assert DockerBackend(layout, options()).monitoring()["Prometheus"] == f"http://127.0.0.1:{used_port}"


def test_equal_prometheus_and_grafana_ports_are_refused(layout: Layout, used_port: str) -> None:
    """Prometheus and Grafana cannot share a port."""
    error = refusal(DockerBackend(layout, options(**dict.fromkeys(PORTS, used_port))).monitoring)
    assert error == f"GRAFANA_PORT={used_port}: Prometheus uses this port; expected another port"


def test_invalid_port_is_named_with_its_value(layout: Layout) -> None:
    """The error for an invalid port names its value and what was expected."""
    error = refusal(lambda: DockerBackend(layout, options(GRAFANA_PORT="http")).monitoring())
    assert error == "GRAFANA_PORT='http': expected a whole number from 1 to 65535"


def test_monitoring_without_a_stack_suggests_make_up(engine: FakeDocker, layout: Layout) -> None:
    """Without a running stack, the error says how to start one."""
    layout.state.unlink()
    engine.containers()
    assert refusal(DockerBackend(layout, options()).monitoring) == "nothing is running here; start it with: make up"


def test_local_backend_refuses_monitoring_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Docker, the error says what is needed and how to read the metrics by hand."""
    monkeypatch.chdir(tmp_path)  # the backend changes into the stack's folder
    var = tmp_path / "var"
    assert refusal(LocalBackend(Layout(var), options(BACKEND="local")).monitoring) == (
        "monitoring needs Docker (BACKEND=docker); to read the metrics of a local replica: "
        f"curl --unix-socket {var}/run/1.sock http://localhost/metrics"
    )
    assert refusal(LocalBackend(Layout(var), options()).monitoring) == "nothing is running here; start it with: make up"


def test_restarted_monitoring_pulls_no_image(engine: FakeDocker) -> None:
    """`make up` starts monitoring services again without pulling images."""
    engine.answer("image", "inspect", "grafana/grafana:1", status=1)
    monitoring.up(Compose({}), pull=False)
    assert started(engine) == [["prometheus", "nginx-exporter"]]
    assert engine.ran("pull") == []


def test_stack_serves_without_failed_monitoring(
    engine: FakeDocker, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    """If Prometheus cannot be started again, the stack serves and one line says that monitoring is missing."""
    backend = DockerBackend(layout, options())
    engine.answer("compose", "up", err="no room\n", status=1)
    backend._finish(UP)
    assert capsys.readouterr().out == ""
    backend._finish(replace(UP, monitoring=True))
    assert capsys.readouterr().out.startswith("note: the stack serves without monitoring: ")


def test_monitoring_started_by_compose_is_recognized(engine: FakeDocker, layout: Layout) -> None:
    """Monitoring services that `docker compose` started are recognized."""
    layout.state.unlink()
    record = DockerBackend(layout, options(HTTP_PORT="8080"))._running()
    assert record is not None
    assert record.wanted.monitoring
    engine.containers(*STACK)
    record = DockerBackend(layout, options(HTTP_PORT="8080"))._running()
    assert record is not None
    assert not record.wanted.monitoring


@pytest.mark.parametrize("verb", ["down", "delete"])
def test_monitoring_stops_with_the_stack(verb: str, engine: FakeDocker, layout: Layout) -> None:
    """Stopping or deleting the stack includes the monitoring services, also without a record of them."""
    engine.answer("compose", "down")
    engine.answer("image", "ls")
    getattr(DockerBackend(layout, options()), verb)()
    profiles = [call.environ["COMPOSE_PROFILES"] for call in engine.calls if "down" in call.arguments]
    assert [set(MONITORING_SERVICES) <= set(profile.split(",")) for profile in profiles] == [True]
