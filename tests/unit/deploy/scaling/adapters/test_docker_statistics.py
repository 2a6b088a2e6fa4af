"""Tests of usage statistics from Docker's engine, with a fake engine on a Unix socket and with a real one."""

from __future__ import annotations

import json
import os
import re
import socketserver
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.errors import CommandError
from deploy.scaling.adapters.docker_statistics import Statistics, engine_socket
from deploy.scaling.usage import Reading, Sampler, Usage
from tests.support.fake_docker import FakeDocker
from tests.support.servers import serving_thread
from tests.support.stacks.containers import require_engine
from tests.support.waiting import wait_until

# Answers of engine 26.1.5 on cgroup v1, and of engines on v2, without the fields that the code does not read.
V1: dict[str, Any] = {
    "read": "2026-11-21T14:35:13.227664541Z",
    "cpu_stats": {
        "cpu_usage": {"total_usage": 1531166624, "percpu_usage": [721311216, 809855408]},
        "online_cpus": 2,
        "throttling_data": {"periods": 464, "throttled_periods": 12, "throttled_time": 250000000},
    },
    "memory_stats": {
        "usage": 43941888,
        "max_usage": 48693248,
        "stats": {"cache": 180224, "inactive_file": 4096, "rss": 41238528, "total_inactive_file": 8192},
        "limit": 1073741824,
    },
}
V2: dict[str, Any] = {
    "read": "2026-11-21T14:35:13Z",
    "cpu_stats": {
        "cpu_usage": {"total_usage": 2000000000, "usage_in_kernelmode": 500000000, "usage_in_usermode": 1500000000},
        "online_cpus": 2,
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    },
    "memory_stats": {
        "usage": 50000000,
        "stats": {"active_file": 3000000, "anon": 40000000, "file": 9000000, "inactive_file": 6000000},
        "limit": 25276628992,
    },
}
ENDED = {"read": "0001-01-01T00:00:00Z", "cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}}


class Engine(socketserver.ThreadingUnixStreamServer):
    """A fake engine that answers from its containers and records the requested targets."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        super().__init__(path, _Handler)
        self.containers: dict[str, dict[str, Any]] = {}
        self.targets: list[str] = []
        self.status = 200

    def run(self, key: str, name: str, document: object, **more: Any) -> None:
        """Add a running container: of a service in project p if ``service`` is given, else with only a name."""
        service = more.pop("service", None)
        labels = {"com.docker.compose.project": "p", "com.docker.compose.service": service} if service else {}
        limits = {"NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0, "Memory": 0} | more
        self.containers[key] = {"Id": key, "Names": [f"/{name}"], "Labels": labels, "limits": limits, "stats": document}

    def answer(self, target: str) -> tuple[int, Any]:
        self.targets.append(target)
        parts = urlsplit(target)
        if self.status != 200:
            return self.status, {"message": "out of order"}
        if parts.path == "/containers/json":
            return 200, self._listed(json.loads(parse_qs(parts.query)["filters"][0]))
        _, _, key, resource = parts.path.split("/")
        container = self.containers.get(key)
        if not container:
            return 404, {"message": f"No such container: {key}"}
        return 200, container["stats"] if resource == "stats" else {
            "Name": container["Names"][0],
            "HostConfig": container["limits"],
        }

    def _listed(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        if names := filters.get("name"):
            return [
                container
                for container in self.containers.values()
                if any(re.match(name, container["Names"][0]) for name in names)
            ]
        assert filters == {"label": ["com.docker.compose.project=p", "com.docker.compose.oneoff=False"]}
        return [container for container in self.containers.values() if container["Labels"]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        status, document = self.server.answer(self.path)
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def address_string(self) -> str:
        return "engine"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with serving_thread(Engine(str(tmp_path / "engine.sock"))) as server:
        yield server


@pytest.fixture
def statistics(engine: Engine) -> Statistics:
    return Statistics(str(engine.server_address), "p", ["lab"])


def test_statistics_of_both_cgroup_versions_are_read(engine: Engine, statistics: Statistics) -> None:
    """CPU time, memory without inactive file pages, and limits are read from the documents of cgroup v1 and v2."""
    engine.run("a" * 64, "p-server-1", V1, service="server", NanoCpus=500000000, Memory=1 << 28)
    engine.run("b" * 64, "p-server-2", V2, service="server", CpuQuota=150000, CpuPeriod=100000)
    assert statistics.read() == [
        Reading(
            "p-server-1 aaaaaaaaaaaa", "server", 1795271713.227664, 1.531166624, 43941888 - 8192, 0.5, 1 << 28, 0.25
        ),
        Reading("p-server-2 bbbbbbbbbbbb", "server", 1795271713.0, 2.0, 44000000, 1.5, None, 0.0),
    ]


def test_only_project_containers_and_generator_are_read(engine: Engine, statistics: Statistics) -> None:
    """Only replicas and Nginx of the project, and the generator by its name, are read."""
    for key, name, service in (
        ("1", "p-server-1", "server"),
        ("2", "p-nginx-1", "nginx"),
        ("3", "p-locust-1", "locust"),
    ):
        engine.run(key, name, V1, service=service)
    engine.run("4", "lab", V2)
    engine.run("5", "lab-of-another", V2)
    assert [(reading.name, reading.service) for reading in statistics.read()] == [
        ("p-server-1 1", "server"),
        ("p-nginx-1 2", "nginx"),
        ("lab 4", "locust"),
    ]


def test_container_list_is_refreshed_after_changes(
    engine: Engine, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of containers is requested again after one ended or some seconds passed; limits are requested once."""
    engine.run("1", "p-server-1", V1, service="server")
    engine.run("2", "p-server-2", V1, service="server")
    assert len(statistics.read()) == 2
    engine.run("3", "p-server-3", V1, service="server")
    assert len(statistics.read()) == 2
    del engine.containers["1"]
    engine.containers["2"]["stats"] = ENDED
    assert statistics.read() == []
    del engine.containers["2"]
    assert [reading.name for reading in statistics.read()] == ["p-server-3 3"]
    engine.run("4", "lab", V1)
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)
    assert [reading.name for reading in statistics.read()] == ["p-server-3 3", "lab 4"]
    assert [target for target in engine.targets if target == "/containers/3/json"] == ["/containers/3/json"]


def test_failed_engine_raises_and_recovers(engine: Engine, statistics: Statistics) -> None:
    """An engine that fails or is missing raises an OSError, and an engine that recovers is read again."""
    engine.run("1", "p-server-1", V1, service="server")
    assert len(statistics.read()) == 1
    engine.status = 500
    with pytest.raises(OSError, match=r"the engine answered 500: .*out of order"):
        statistics.read()
    engine.status = 200
    assert len(statistics.read()) == 1
    with pytest.raises(FileNotFoundError):
        Statistics("/nowhere.sock", "p").read()


def test_engine_socket_comes_from_host_or_context(docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket comes from DOCKER_HOST, else from Docker's context; a remote engine has no socket."""
    docker.answer("context", "inspect", out="unix:///var/run/docker.sock\n")
    assert engine_socket() == "/var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    assert engine_socket() == "/run/user/1000/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2375")
    with pytest.raises(CommandError, match=r"tcp://far:2375 cannot be asked"):
        engine_socket()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[str]:
    """The project of a container whose busy process is limited to half a CPU."""
    require_engine()
    project = f"forkcast-test-{os.getpid()}"
    labels = {"project": project, "service": "server", "oneoff": "False", "container-number": "1"}
    options = [part for name, value in labels.items() for part in ("--label", f"com.docker.compose.{name}={value}")]
    file = tmp_path / "id"
    run = ["docker", "run", "--detach", "--cpus=0.5", "--memory=256m", "--network=none", "--cidfile", str(file)]
    image = ["python:3.13-slim-trixie", "python", "-c", "while True: pass"]
    try:
        subprocess.run([*run, *options, *image], check=True, capture_output=True)
        yield project
    finally:
        if file.exists():
            subprocess.run(["docker", "rm", "--force", file.read_text()], check=True, capture_output=True)


@pytest.mark.e2e
def test_readings_of_a_real_container_are_plausible(busy: str) -> None:
    """A busy container limited to half a CPU is read with about that usage, and with the memory of `docker stats`."""
    started = time.time()
    statistics = Statistics(engine_socket(), busy)
    with Sampler(statistics.read, 0.2) as sampler:

        def used() -> Usage | None:
            """Return the usage since the start once it exceeds a second of CPU time."""
            usage = sampler.between(started, time.time())
            return usage if usage.cpus is not None and usage.cpus * (time.time() - started) >= 1 else None

        usage = wait_until(used, pause=0.2, describe=lambda: sampler.fault)
        (reading,) = statistics.read()
    assert usage.cpu_percent
    assert 10 < usage.cpu_percent < 130
    assert usage.cpus == pytest.approx(usage.cpu_percent / 200)
    assert usage.throttled
    assert (reading.cpu_limit, reading.memory_limit) == (0.5, 256 << 20)
    command = ["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", reading.name.split()[1]]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (mebibytes,) = re.findall(r"^([\d.]+)MiB / 256MiB", shown)
    assert reading.memory / (1 << 20) == pytest.approx(float(mebibytes), rel=0.2)
