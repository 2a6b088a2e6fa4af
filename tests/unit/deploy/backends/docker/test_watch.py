"""Tests of `make status`, `make stats` and `make logs` for containers, with a fake `docker` command."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.backends.docker.engine import MONITORING_SERVICES, SERVICES, Compose
from deploy.backends.docker.topology import DEFAULT
from deploy.backends.docker.watch import exec_stats, show_logs, status
from deploy.errors import CommandError
from deploy.stack.paths import ROOT, Layout
from tests.support.fake_docker import FakeDocker, container

COMPOSE = Compose({})
LAYOUT = Layout(Path("var"))
M = 1 << 20
MODEL = {"name": "covertype", "version": "3", "engine": "forest", "trained_on": "fetch_covtype"}
HEALTH = {"status": "ok", "workers": 2, "model": MODEL}

OTHER_SERVICES = tuple(container(service, Health=None) for service in ("nginx", "locust", "locust-worker"))


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine that runs one replica, Nginx, Locust and its worker, all ready and without log lines."""
    docker.start_engine()
    docker.answer("logs")
    docker.answer("events")
    docker.answer("exec", out=HEALTH)
    docker.answer("compose", "run", "cat", out={"needs": 200 * M})
    docker.containers(container(cpus=500_000_000, memory=512 * M), *OTHER_SERVICES)
    return docker


def rows(lines: list[str]) -> dict[str, list[str]]:
    """Return the rows of the table by their first cell, without the varying uptimes."""
    return {
        cells[0]: [cell for i, cell in enumerate(cells) if not (cell.isdigit() and cells[i + 1 : i + 2] == ["s"])]
        for cells in (line.split() for line in lines[: lines.index("")])
    }


def test_status_prints_a_line_per_container() -> None:
    """The status has a line per container, with the limits and model of a replica, and the addresses."""
    lines = status(replace(DEFAULT, http_port=8080), COMPOSE, LAYOUT)
    table = rows(lines)
    titles = ["NAME", "STATE", "REPLICA", "UPTIME", "CPUS", "MEMORY", "MODEL", "ENGINE", "WORKERS"]
    assert table["NAME"] == titles
    replica = "server100000"
    assert table["forkcast-server-1"] == (
        ["forkcast-server-1", "running", replica, "s", "0.5", "512M", "covertype", "3", "forest", "2"]
    )
    assert table["forkcast-nginx-1"] == ["forkcast-nginx-1", "running", "s"]
    assert table["forkcast-locust-1"] == ["forkcast-locust-1", "running", "s"]
    assert lines[lines.index("") + 1 :] == [
        "service http://127.0.0.1:8080   Locust http://127.0.0.1:8089",
        "no API keys, no TLS, no limits per client",
    ]


def test_replica_is_queried_inside_its_container(engine: FakeDocker) -> None:
    """The health of a replica is read by a program in its container, since it publishes no port."""
    status(DEFAULT, COMPOSE, LAYOUT)
    (command,) = engine.ran("exec")
    assert command == ["exec", container()["Id"], "python", "-IS", "/usr/local/lib/forkcast/ask.py", "8000", "/health"]


@pytest.mark.parametrize(("answer", "code"), [("", 1), ("no answer", 0), ("[]", 0), ("{}", 0)])
def test_unresponsive_replica_has_no_model_columns(engine: FakeDocker, answer: str, code: int) -> None:
    """A running replica that does not answer has a line without a model."""
    engine.answer("exec", out=answer, status=code)
    engine.containers(container(Health={"Status": "starting"}), *OTHER_SERVICES)
    table = rows(status(DEFAULT, COMPOSE, LAYOUT))
    assert table["forkcast-server-1"] == ["forkcast-server-1", "running", "(starting)", "server100000", "s"]


def test_status_notes_stale_copies_and_missing_services(engine: FakeDocker) -> None:
    """A stale copy, synthetic data, lost workers and missing services are noted below the table."""
    synthetic = {**MODEL, "trained_on": "synthetic"}
    engine.answer("exec", out={**HEALTH, "stale": "no registry", "refused": "no signature", "model": synthetic})
    engine.answer("logs", out="worker 7 was killed: out of memory at 128M\n")
    engine.containers(container())
    lines = status(DEFAULT, COMPOSE, LAYOUT)
    assert lines[lines.index("") + 3 :] == [
        "forkcast-server-1 lost 1 worker(s) recently: killed: out of memory at 128M",
        "forkcast-server-1 serves the last good copy: no registry",
        "forkcast-server-1 refused to load another model and still serves the previous one: no signature",
        "forkcast-server-1 serves a model trained on SYNTHETIC data: its predictions mean nothing",
        "nginx is missing; start it with: make up",
        "locust is missing; start it with: make up",
        "locust-worker is missing; start it with: make up",
    ]


def test_status_includes_monitoring_services(engine: FakeDocker) -> None:
    """Monitoring services have lines, addresses and notes; a missing one has no address."""
    reason = "the disk is full"
    engine.answer("logs", out=f"{reason}\n")
    ended = container("nginx-exporter", Status="exited", Health=None, restarts=3)
    engine.containers(container(), *OTHER_SERVICES, container("prometheus"), ended)
    lines = status(replace(DEFAULT, http_port=8080, monitoring=True, prometheus_port=9191), COMPOSE, LAYOUT)
    assert rows(lines)["forkcast-prometheus-1"] == ["forkcast-prometheus-1", "running", "s"]
    assert lines[lines.index("") + 1 :] == [
        "service http://127.0.0.1:8080   Locust http://127.0.0.1:8089   Prometheus http://127.0.0.1:9191",
        "no API keys, no TLS, no limits per client",
        f"forkcast-nginx-exporter-1: {reason}; restarted 3 time(s)",
        "grafana is missing; start it with: make monitoring",
    ]


@pytest.mark.parametrize("service", ["mlflow", "prometheus", "grafana"])
def test_manually_stopped_service_is_not_a_failure(engine: FakeDocker, service: str) -> None:
    """An optional service that was stopped by hand is noted as stopped, not as failed."""
    engine.containers(container(), *OTHER_SERVICES, container(service, Status="exited", Health=None))
    assert status(DEFAULT, COMPOSE, LAYOUT)[-1] == (
        f"forkcast-{service}-1 is stopped, and the replicas go on serving; start it with: make up"
    )


def test_stopped_container_has_no_uptime(engine: FakeDocker) -> None:
    """A stopped container has no uptime, is not queried, and is noted with its reason."""
    engine.answer("logs", out="forkcast: the model has no signature\n")
    engine.containers(container(Status="exited", Health=None), *OTHER_SERVICES)
    lines = status(DEFAULT, COMPOSE, LAYOUT)
    assert rows(lines)["forkcast-server-1"] == ["forkcast-server-1", "exited", "server100000"]
    assert lines[-1] == "forkcast-server-1: the model has no signature; restarted 0 time(s)"
    assert engine.ran("exec") == []


def test_stats_without_containers_is_refused(engine: FakeDocker) -> None:
    """Without a running container there is nothing to measure."""
    engine.containers(container(Status="exited"))
    with pytest.raises(CommandError, match=r"^no container runs; see make status$"):
        exec_stats(COMPOSE)


def test_stats_without_terminal_prints_a_snapshot(engine: FakeDocker) -> None:
    """Without a terminal, Docker prints the figures of the running containers once."""
    engine.answer("stats", out="a table\n")
    engine.containers(container(), container(number=2, Status="exited"), container("nginx"))
    script = (
        "from deploy.backends.docker.engine import Compose; from deploy.backends.docker.watch import exec_stats; "
        "exec_stats(Compose({}))"
    )
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout == "a table\n"
    assert engine.ran("stats") == [["stats", "--no-stream", "forkcast-server-1", "forkcast-nginx-1"]]


@pytest.mark.parametrize("service", ["gunicorn", "model", ""])
def test_logs_of_an_unknown_service_are_refused(service: str) -> None:
    """The error for an unknown service lists the known ones."""
    with pytest.raises(CommandError) as caught:
        show_logs(COMPOSE, service)
    known = (
        "server, nginx, locust, locust-worker, database, object-store, mlflow, prometheus, nginx-exporter, grafana, all"
    )
    assert str(caught.value) == f"S={service!r}: expected one of {known}"


@pytest.mark.parametrize(
    ("service", "verb"),
    [(service, "up") for service in (*SERVICES, "all")] + [(service, "monitoring") for service in MONITORING_SERVICES],
)
def test_logs_of_missing_container_are_one_line(engine: FakeDocker, service: str, verb: str) -> None:
    """The error for a service without a container says how to start it."""
    engine.containers()
    with pytest.raises(CommandError) as caught:
        show_logs(COMPOSE, service)
    assert str(caught.value) == f"{service} has no log yet; start it with: make {verb}"


def printed_logs(
    engine: FakeDocker, service: str, capsys: pytest.CaptureFixture[str], *documents: dict[str, Any]
) -> str:
    engine.containers(*documents)
    show_logs(COMPOSE, service)
    return capsys.readouterr().out


def test_logs_without_terminal_prefix_container_name(engine: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, the last lines of each container are printed with its name."""
    for number in (1, 2):
        engine.answer("logs", container(number=number)["Id"], out=f"one of {number}\ntwo of {number}\n")
    assert printed_logs(engine, "server", capsys, container(), container(number=2)).splitlines() == [
        "forkcast-server-1 | one of 1",
        "forkcast-server-1 | two of 1",
        "forkcast-server-2 | one of 2",
        "forkcast-server-2 | two of 2",
    ]
    assert "label=com.docker.compose.service=server" in engine.ran("ps")[-1]


def test_logs_cover_every_container(engine: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    """The service `all` prints the logs of every container."""
    engine.answer("logs", out="line\n")
    output = printed_logs(engine, "all", capsys, container(), container("nginx"))
    assert output == "forkcast-server-1 | line\nforkcast-nginx-1 | line\n"
    assert not any("service=" in argument for argument in engine.ran("ps")[-1])


def test_logs_start_with_the_note_of_a_failed_container(engine: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    """The reason of a failed container is printed before its log."""
    engine.answer("logs", out="forkcast: the model has no signature\n")
    output = printed_logs(engine, "server", capsys, container(Status="exited", restarts=2))
    assert output.splitlines() == [
        "forkcast-server-1: the model has no signature; restarted 2 time(s)",
        "forkcast-server-1 | forkcast: the model has no signature",
    ]


def test_health_program_is_in_the_image() -> None:
    """The program that reads the health of a replica is copied into the image."""
    text = Path(ROOT / "deploy/images/Dockerfile").read_text()
    server = text[text.index("FROM runtime AS server") : text.index("FROM runtime AS model")]
    assert "COPY --link deploy/images/ask.py /usr/local/lib/forkcast/" in server
