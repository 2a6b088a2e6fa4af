"""Local stacks started by `make`, and single replicas started by `gunicorn`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.backends.local.slots import replica_name
from deploy.rollout.replica_client import get_json_over_socket, request_json
from deploy.stack.paths import ROOT
from tests.support.ports import free_port
from tests.support.raw_http import short_path
from tests.support.stress.load import WORKSHOP_ROW
from tests.support.waiting import wait_until


def clean_environ() -> dict[str, str]:
    """Return the environment without variables that configure a stack."""
    prefixes = (
        "MODEL_", "MLFLOW_", "WEB_CONCURRENCY", "HTTP", "VAR_DIR", "N", "MAKE", "MFLAGS", "SOCKET", "REPLICA",
        "BACKEND", "COMPOSE_", "SERVER_", "LOCUST_", "CPUS", "MEMORY", "IMAGE", "TAG", "USERS", "STEP_", "SPAWN_RATE",
        "SETTLE_", "SLO_", "RUN_TIME", "PROFILE", "TOPOLOGIES", "WORKERS", "CLIENT", "DATA", "RESULTS", "RESUME",
        "DATABASE_", "PROMETHEUS_", "GRAFANA_", "S3_", "AWS_", "OBJECT_STORE", "ENV_FILE", "VERSION", "FORCE",
        "API_KEY", "TLS_", "CLIENT_",
    )  # fmt: skip
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes) or name == "NODE"}


@dataclass
class Stack:
    """A local stack with its own var folder and ports; ``checkout`` is the folder in which `make` runs."""

    var: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    locust_port: int = field(default_factory=free_port)
    checkout: Path = ROOT

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `make` as a user would; only `up` and `up-full` get the ports."""
        ports = {"HTTP_PORT": str(self.port), "LOCUST_PORT": str(self.locust_port)}
        port_settings = ports if arguments[0] in ("up", "up-full") else {}
        settings = {"BACKEND": "local", "ENV_FILE": str(self.var.parent / ".env")}
        environ = {**clean_environ(), **settings, **self.environ, "VAR_DIR": str(self.var), **port_settings}
        return subprocess.run(
            ["make", "-s", *arguments],
            cwd=self.checkout, env=environ, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def make_ok(self, *arguments: str) -> str:
        """Run `make`, which must succeed, and return its output."""
        ran = self.make(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def make_error(self, *arguments: str) -> str:
        """Run `make`, which must fail with one line ``error: ..``, and return that line."""
        ran = self.make(*arguments)
        assert ran.returncode != 0, ran.stdout
        lines = [line for line in ran.stderr.splitlines() if not line.startswith("make")]
        assert len(lines) == 1, ran.stderr
        assert lines[0].startswith("error: ")
        return lines[0]

    def predict(self, document: object = None) -> tuple[int, Any]:
        return request_json(self.address, "POST", "/predict", WORKSHOP_ROW if document is None else document)

    def get(self, target: str) -> tuple[int, Any]:
        return request_json(self.address, "GET", target)

    def health(self, slot: int) -> dict[str, Any]:
        """Return the answer of /health of the replica in a slot."""
        with short_path(self.var / f"run/{slot}.sock") as socket:
            status, document = get_json_over_socket(str(socket), "/health")
        assert status == 200
        assert isinstance(document, dict)
        return document

    def log(self, slot: int) -> str:
        return (self.var / "log" / f"{replica_name(slot)}.log").read_text()

    def pids(self) -> dict[str, int]:
        """Return the process id of each running program, from `make status`."""
        rows = (
            line.split()
            for line in self.make_ok("status").splitlines()
            if line.startswith(("replica", "nginx", "locust ", "mlflow "))
        )
        return {row[0]: int(row[2]) for row in rows if row[1] in ("running", "starting")}


@dataclass
class Replica:
    """A Gunicorn master on a TCP port, without Nginx."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, target: str, document: object = None) -> tuple[int, Any]:
        return request_json(self.address, method, target, document)

    def wait_ready(self) -> None:
        """Wait until /ready answers 200; fail with the log if the process ends or 120 seconds pass."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.ask("GET", "/ready")[0] == 200

        wait_until(is_ready, seconds=120, pause=0.1, describe=self.log.read_text)

    def stop(self) -> None:
        """Send SIGTERM to the master and wait until it exits."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


StartReplica = Callable[..., Replica]


def launch(model: Path, log: Path, **settings: str) -> Replica:
    """Start `gunicorn -c gunicorn.conf.py` with a model's folder and settings; its var folder is beside the log."""
    port = int(settings.get("PORT") or free_port())
    environ = {
        **clean_environ(),
        "MODEL_URI": str(model),
        "PORT": str(port),
        "VAR_DIR": str(log.parent / "var"),
        **settings,
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"],
            cwd=ROOT, env=environ, stdout=output, stderr=output, text=True,
        )  # fmt: skip
    return Replica(process, port, log)
