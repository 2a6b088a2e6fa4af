"""What `make monitoring` starts beside a stack, refuses, and does without. The `docker` command is a stand-in."""

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
WATCHING = [container(service, folder=str(ROOT)) for service in MONITORING_SERVICES]


def running(engine: FakeDocker, watching: list[dict[str, Any]]) -> None:
    """Have the stack's containers and these, of which the first two are looked at together."""
    engine.containers(*STACK, *watching)
    for documents in (watching[:2], [*STACK, *watching]):
        engine.answer("inspect", *(one["Id"] for one in documents), out=documents)


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine with all images that runs a stack, and what watches it as soon as that is looked for."""
    docker.start_engine()
    document = config()
    document["services"] |= {service: {"image": image} for service, image in IMAGES.items()}
    docker.answer("compose", "config", out=document)
    running(docker, WATCHING)
    for command in ("build", "up", "rm", "run"):
        docker.answer("compose", command)
    return docker


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    one = Layout(tmp_path / "var")
    one.make()
    Record(UP).save(one)
    return one


@pytest.fixture
def free() -> dict[str, str]:
    """Two ports that nobody listens on."""
    return {name: str(port) for name, port in zip(PORTS, free_ports(2), strict=True)}


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that somebody listens on."""
    with port_in_use() as port:
        yield str(port)


def started(engine: FakeDocker) -> list[list[str]]:
    return [call[call.index("--no-build") + 1 :] for call in engine.ran("compose", "up")]


def test_prometheus_is_healthy_when_grafana_starts(engine: FakeDocker, layout: Layout, free: dict[str, str]) -> None:
    """Its image is built, Prometheus is well before Grafana starts, and the stack remembers that it is watched."""
    pages = DockerBackend(layout, options(**free)).monitoring()
    assert [call[5:] for call in engine.ran("compose", "build")] == [["build", "prometheus"]]
    assert started(engine) == [["prometheus", "nginx-exporter"], ["grafana"]]
    assert engine.ran("pull") == []
    ports = [int(port) for port in free.values()]
    assert list(pages.items()) == [
        ("Prometheus", f"http://127.0.0.1:{ports[0]}"),
        ("Grafana", f"http://127.0.0.1:{ports[1]}"),
    ]
    assert Record.load(layout) == Record(replace(UP, monitoring=True, prometheus_port=ports[0], grafana_port=ports[1]))
    asked = {call.environ["PROMETHEUS_PORT"] for call in engine.calls if "--no-build" in call.arguments}
    assert asked == {str(ports[0])}


def test_other_settings_wait_for_a_verb_of_theirs(layout: Layout, free: dict[str, str]) -> None:
    """Of what the user's shell or .env asks for, the ports are taken, and nothing that would change the stack."""
    DockerBackend(layout, options(**free, N="3", CPUS="2", ENGINE="sklearn")).monitoring()
    found = Record.load(layout)
    assert found is not None
    assert (found.wanted.replicas, found.wanted.cpus, found.wanted.environment) == (1, 1, {})


def test_prometheus_runs_without_grafana_image(
    engine: FakeDocker, layout: Layout, free: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Grafana's image Prometheus runs all the same, and one line says why it is alone."""
    engine.answer("image", "inspect", "grafana/grafana:1", err="no such image\n", status=1)
    engine.answer("pull", err="no such host\n", status=1)
    running(engine, WATCHING[:2])
    assert list(DockerBackend(layout, options(**free)).monitoring()) == ["Prometheus"]
    assert started(engine) == [["prometheus", "nginx-exporter"]]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "note: Prometheus runs without Grafana: docker pull --quiet: no such host"
    )


def test_published_images_are_pulled(engine: FakeDocker, layout: Layout, free: dict[str, str]) -> None:
    """A stack of published images is watched by a published one."""
    Record(replace(UP, environment={"IMAGE": "registry.example.com/forkcast"})).save(layout)
    engine.answer("image", "inspect", "forkcast-prometheus", status=1)
    engine.answer("pull")
    DockerBackend(layout, options(**free)).monitoring()
    assert engine.ran("pull") == [["pull", "--quiet", "forkcast-prometheus"]]
    assert engine.ran("compose", "build") == []


def test_failed_prometheus_leaves_the_stack_unchanged(engine: FakeDocker, layout: Layout, free: dict[str, str]) -> None:
    """Where Prometheus does not come up, nothing of it stays, and the stack is as it was."""
    engine.answer("compose", "up", err="no room\n", status=1)
    assert refusal(DockerBackend(layout, options(**free)).monitoring).endswith("no room")
    (removed,) = engine.ran("compose", "rm")
    assert removed[5:] == ["rm", "--stop", "--force", *MONITORING_SERVICES]
    assert Record.load(layout) == Record(UP)


def test_what_watched_before_is_left(engine: FakeDocker, layout: Layout) -> None:
    """A stack that is watched already is not left alone by a change that fails."""
    Record(replace(UP, monitoring=True)).save(layout)
    engine.answer("compose", "up", err="no room\n", status=1)
    assert refusal(DockerBackend(layout, options()).monitoring).endswith("no room")
    assert engine.ran("compose", "rm") == []


@pytest.mark.parametrize("name", PORTS)
def test_used_port_is_named_with_its_variable(
    name: str, engine: FakeDocker, layout: Layout, free: dict[str, str], taken: str
) -> None:
    """A port that somebody listens on is named with its variable before anything is built."""
    told = refusal(DockerBackend(layout, options(**free | {name: taken})).monitoring)
    assert told == f"port {taken} is in use by another program; choose another with {name}="
    assert engine.ran("compose", "build") == started(engine) == []


def test_own_ports_are_not_in_use(layout: Layout, taken: str) -> None:
    """What watches may be asked again for the port that it listens on itself."""
    Record(replace(UP, monitoring=True, prometheus_port=int(taken))).save(layout)
    assert DockerBackend(layout, options()).monitoring()["Prometheus"] == f"http://127.0.0.1:{taken}"


def test_equal_prometheus_and_grafana_ports_are_refused(layout: Layout, taken: str) -> None:
    """Prometheus and Grafana cannot share a port."""
    told = refusal(DockerBackend(layout, options(**dict.fromkeys(PORTS, taken))).monitoring)
    assert told == f"GRAFANA_PORT={taken}: Prometheus uses this port; expected another port"


def test_invalid_port_is_named_with_its_value(layout: Layout) -> None:
    """A port that cannot be is named with its value and what was expected."""
    told = refusal(lambda: DockerBackend(layout, options(GRAFANA_PORT="http")).monitoring())
    assert told == "GRAFANA_PORT='http': expected a whole number from 1 to 65535"


def test_monitoring_without_a_stack_suggests_make_up(engine: FakeDocker, layout: Layout) -> None:
    """Where nothing runs, one line says how to start it."""
    layout.state.unlink()
    engine.containers()
    assert refusal(DockerBackend(layout, options()).monitoring) == "nothing is running here; start it with: make up"


def test_local_backend_refuses_monitoring_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Docker one line says what it needs, and how to read by hand what it would have read."""
    monkeypatch.chdir(tmp_path)  # the backend changes into the stack's folder
    var = tmp_path / "var"
    assert refusal(LocalBackend(Layout(var), options(BACKEND="local")).monitoring) == (
        "monitoring needs Docker (BACKEND=docker); to read the metrics of a local replica: "
        f"curl --unix-socket {var}/run/1.sock http://localhost/metrics"
    )
    assert refusal(LocalBackend(Layout(var), options()).monitoring) == "nothing is running here; start it with: make up"


def test_watched_again_without_a_network(engine: FakeDocker) -> None:
    """`make up` brings back what watches the stack, and pulls nothing for it."""
    engine.answer("image", "inspect", "grafana/grafana:1", status=1)
    monitoring.up(Compose({}), pull=False)
    assert started(engine) == [["prometheus", "nginx-exporter"]]
    assert engine.ran("pull") == []


def test_serving_does_not_wait_for_monitoring(
    engine: FakeDocker, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where Prometheus cannot be brought back, the stack serves, and one line says that it is not watched."""
    backend = DockerBackend(layout, options())
    engine.answer("compose", "up", err="no room\n", status=1)
    backend._finish(UP)
    assert capsys.readouterr().out == ""
    backend._finish(replace(UP, monitoring=True))
    assert capsys.readouterr().out.startswith("note: the stack serves without monitoring: ")


def test_monitoring_started_by_compose_is_recognized(engine: FakeDocker, layout: Layout) -> None:
    """Containers that Compose itself started are known to be watched."""
    layout.state.unlink()
    found = DockerBackend(layout, options(HTTP_PORT="8080"))._running()
    assert found is not None
    assert found.wanted.monitoring
    engine.containers(*STACK)
    found = DockerBackend(layout, options(HTTP_PORT="8080"))._running()
    assert found is not None
    assert not found.wanted.monitoring


@pytest.mark.parametrize("verb", ["down", "delete"])
def test_stopped_with_the_stack(verb: str, engine: FakeDocker, layout: Layout) -> None:
    """Stopping the stack, or deleting it, knows of what watches, whoever started it."""
    engine.answer("compose", "down")
    engine.answer("image", "ls")
    getattr(DockerBackend(layout, options()), verb)()
    profiles = [call.environ["COMPOSE_PROFILES"] for call in engine.calls if "down" in call.arguments]
    assert [set(MONITORING_SERVICES) <= set(one.split(",")) for one in profiles] == [True]
