"""Tests of every verb of the container backend in a simulated macOS, with a fake `docker` command.

The verbs run as programs from which tests/support/macos.py removes what macOS lacks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.backends.docker.engine import MONITORING_SERVICES, SERVICES
from deploy.scaling.verbs import VERBS as LAB_VERBS
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record
from deploy.stack.registry_services import SERVICES as REGISTRY
from deploy.stack.specification import Stack
from tests.support import macos
from tests.support.fake_docker import FakeDocker, config, container
from tests.support.ports import free_port
from tests.support.servers import serving_thread
from tests.support.stacks.local import clean_environ

Run = Callable[..., subprocess.CompletedProcess[str]]

# Each verb with the variables that it requires.
VERBS: dict[str, dict[str, str]] = {
    "up": {}, "up-full": {}, "monitoring": {}, "scale": {"N": "3"}, "resources": {"CPUS": "2", "MEMORY": "512M"},
    "restart": {}, "status": {}, "stats": {}, "logs": {}, "train": {}, "promote": {"VERSION": "2"}, "rollback": {},
    "compile": {"MODEL_URI": "models:/hills@champion"}, "build": {}, "down": {}, "clean": {"YES": "1"},
    "publish": {"IMAGE": "registry/forkcast", "TAG": "v1"},
}  # fmt: skip
# The verbs of the lab that measure, with their variables. The fake Locust reports steps that lie in the past.
STEPS = {"STEP_SECONDS": "5", "SETTLE_SECONDS": "1"}
MEASURING: dict[str, dict[str, str]] = {
    "load": {"USERS": "2", "RUN_TIME": "6s", "SETTLE_SECONDS": "1"},
    "max-users": {"USERS": "4", "STEP_USERS": "2", **STEPS},
    "min-resources": {"N": "2", "USERS": "2", "SLO_P95_MS": "1", **STEPS},  # missed, so that the search is short
}
COMPARE, COMPARED = "compare", {"USERS": "2", "TOPOLOGIES": "2x1/1G:1", **STEPS}
READING: dict[str, dict[str, str]] = {"report": {}, "plan": {"USERS": "1000"}, "clean-results": {}}

DIGEST = "0123456789abcdef" * 4
MODEL = {"name": "hills", "version": "2", "digest": DIGEST, "engine": "compiled", "uri": "models:/hills@champion"}
CANDIDATE = {"copy": MODEL, "weight": {"needs": 9, "model": 5, "worker": 4}}
HEALTH = {"model": MODEL, "reloads": 1, "workers": 1, "memory": {"used": 1, "limit": 2}}
EXAMPLE = {"example": {"POST /predict": {"features": [1]}}}
NAMES = {service: f"forkcast-{service}" for service in (*SERVICES, *REGISTRY, *MONITORING_SERVICES)}


class Nginx(BaseHTTPRequestHandler):
    """A fake of the stack's Nginx that answers for one replica after another."""

    replicas = cycle(range(1, 7))

    def do_GET(self) -> None:
        documents: dict[str, Any] = {"/": EXAMPLE, "/health": HEALTH}
        body = json.dumps(documents.get(self.path, {})).encode()
        self.send_response(200)
        self.send_header("X-Served-By", f"server{next(self.replicas)}".ljust(12, "0"))
        self.send_header("X-Model-Version", "2")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def address_string(self) -> str:
        return "client"


@pytest.fixture
def port() -> Iterator[int]:
    """The port of the fake Nginx."""
    with serving_thread(ThreadingHTTPServer(("127.0.0.1", 0), Nginx)) as server:
        yield server.server_port


@pytest.fixture
def engine(docker: FakeDocker, tmp_path: Path) -> FakeDocker:
    """A fake Docker engine with a container of each service, on which every command succeeds."""
    docker.start_engine()
    docker.answer("context", "inspect", out=f"unix://{tmp_path}/no-engine.sock\n")
    docker.answer("image", "inspect", "{{.Size}}", out="25000000\n")
    docker.answer("image", "rm")
    services = config()["services"]
    services |= {name: {"image": image} for name, image in NAMES.items() if name not in services}
    docker.answer("compose", "config", out={"name": "forkcast", "services": services})
    for command in ("build", "up", "rm", "down", "logs"):
        docker.answer("compose", command)
    docker.answer("compose", "run", out=CANDIDATE)
    for command in ("pull", "stop", "rm", "stats", "logs", "events", "volume"):
        docker.answer(command)
    docker.answer("buildx", "inspect")
    docker.answer("buildx", "bake")
    docker.answer("exec", out=HEALTH)
    docker.answer("info", "{{json .DriverStatus}}", out="[]\n")
    docker.allow_scaling()
    other_services = (*SERVICES[1:], *REGISTRY, *MONITORING_SERVICES)
    docker.containers(
        *(container(number=number, folder=str(ROOT)) for number in (1, 2)),
        *(container(service, folder=str(ROOT)) for service in other_services),
    )
    return docker


@pytest.fixture
def run(engine: FakeDocker, tmp_path: Path, port: int) -> Run:
    """Run a verb in the simulated macOS, with a stack of two replicas that is up."""
    layout = Layout(tmp_path / "var")
    layout.make()
    Record(Stack(2, "127.0.0.1", port, free_port(), 1, {}, "1G", "docker")).save(layout)
    environ = clean_environ() | {
        "PATH": engine.path,
        "PYTHONPATH": str(macos.PROGRAMS),
        "VAR_DIR": str(layout.var),
        "ENV_FILE": str(tmp_path / ".env"),
        "RESULTS_DIR": str(tmp_path / "results"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "COVERTYPE_PATH": __file__,
        # Another program on this machine may use the default ports.
        **{name: str(free_port()) for name in ("MLFLOW_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")},
    }

    def run_verb(module: str, verb: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, verb],
            cwd=ROOT, env=environ | variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run_verb


def test_every_verb_is_tested() -> None:
    """The tests of this module cover all verbs."""
    assert set(VERBS) == set(cli.VERBS)
    assert {COMPARE, *MEASURING, *READING} == set(LAB_VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_works_on_macos(verb: str, run: Run, engine: FakeDocker) -> None:
    """Each verb of a stack succeeds without the features of Linux and calls the fake `docker`."""
    ran = run("deploy.cli", verb, **VERBS[verb])
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert engine.calls


def locust_lines(begun: int) -> Iterator[str]:
    """Yield the report lines of Locust for six steps of 20 s with nine answers per second."""
    for step in range(6):
        start = begun + 20 * step
        for second in range(start, start + 20):
            answers = {"requests": 9, "failures": {}, "latency": {"5": 9}, "cpu": {}}
            yield json.dumps({"kind": "second", "time": second, **answers})
        yield json.dumps({"kind": "step", "time": start, "users": 2 * (step + 1)})
    yield json.dumps({"kind": "stop", "time": begun + 120})


def nginx_lines(begun: int) -> Iterator[str]:
    """Yield the lines of Nginx's access log for the requests of locust_lines."""
    for second in range(begun, begun + 120):
        at = datetime.fromtimestamp(second, UTC).isoformat()
        for target in ["/predict", "/null"] * 9:
            yield f'{{"time":"{at}","method":"POST","uri":"{target}","status":200,"request_time":0.005}}'


@pytest.fixture
def measured(engine: FakeDocker) -> None:
    """Make the fake Docker print a finished Locust run and the access log of Nginx for it."""
    begun = int(time.time()) - 1000
    engine.answer("compose", "run", "locust-worker", out="\n".join([*locust_lines(begun), ""]))
    engine.answer("logs", "--follow", out="\n".join([*nginx_lines(begun), ""]))


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("verb", MEASURING)
def test_measuring_works_on_macos(verb: str, run: Run, engine: FakeDocker, tmp_path: Path) -> None:
    """Each measuring verb of the lab writes a report, and its results name the CPUs of the Docker engine."""
    ran = run("deploy.scaling", verb, **MEASURING[verb])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    (results,) = tmp_path.glob("results/*/lab.json")
    assert json.loads(results.read_text())["conditions"]["engine"] == "8 CPUs"
    assert (results.parent / "report.html").exists()
    assert engine.ran("run", "locust-worker")


@pytest.mark.usefixtures("measured")
def test_comparison_on_macos_can_be_reported(run: Run, tmp_path: Path) -> None:
    """A comparison notes which CPUs it cannot reserve, and the verbs that read its results succeed."""
    assert run("deploy.scaling", COMPARE, **COMPARED).returncode == 0
    (results,) = tmp_path.glob("results/*/lab.json")
    (note,) = json.loads(results.read_text())["conditions"]["notes"]
    assert note == (
        "replicas and Nginx on CPU 0,1,2, the generator on CPU 3,4,5,6,7; to keep the lab itself to CPUs takes Linux"
    )
    for verb, variables in READING.items():
        ran = run("deploy.scaling", verb, **variables)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
