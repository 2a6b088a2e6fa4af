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
    """Return the environment without what another stack or a user's shell may have set."""
    ours = (
        "MODEL_URI", "MLFLOW_", "WEB_CONCURRENCY", "HTTP", "VAR_DIR", "N", "MAKE", "MFLAGS", "SOCKET", "REPLICA",
        "BACKEND", "COMPOSE_", "SERVER_", "LOCUST_", "CPUS", "MEMORY", "IMAGE", "TAG", "USERS", "STEP_", "SPAWN_RATE",
        "SETTLE_", "SLO_", "RUN_TIME", "PROFILE", "TOPOLOGIES", "WORKERS", "CLIENT", "DATA", "RESULTS", "RESUME",
        "DATABASE_", "PROMETHEUS_", "GRAFANA_", "S3_", "AWS_", "OBJECT_STORE", "ENV_FILE", "VERSION", "FORCE",
        "API_KEY", "TLS_", "CLIENT_",
    )  # fmt: skip
    return {name: value for name, value in os.environ.items() if not name.startswith(ours) or name == "NODE"}


@dataclass
class Stack:
    """One local stack with a var folder and ports of its own; ``checkout`` is where `make` runs."""

    var: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    locust_port: int = field(default_factory=free_port)
    checkout: Path = ROOT

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `make` as a user would; the ports are given to `up` and `up-full` only."""
        ports = {"HTTP_PORT": str(self.port), "LOCUST_PORT": str(self.locust_port)}
        extra = ports if arguments[0] in ("up", "up-full") else {}
        own = {"BACKEND": "local", "ENV_FILE": str(self.var.parent / ".env")}
        environ = {**clean_environ(), **own, **self.environ, "VAR_DIR": str(self.var), **extra}
        return subprocess.run(
            ["make", "-s", *arguments],
            cwd=self.checkout, env=environ, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def done(self, *arguments: str) -> str:
        """Run `make`, which must succeed; return what it printed."""
        ran = self.make(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def refused(self, *arguments: str) -> str:
        """Run `make`, which must fail with one line of ours; return that line."""
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
        """Return what /health of the replica in this slot answers."""
        with short_path(self.var / f"run/{slot}.sock") as socket:
            status, document = get_json_over_socket(str(socket), "/health")
        assert status == 200
        assert isinstance(document, dict)
        return document

    def log(self, slot: int) -> str:
        return (self.var / "log" / f"{replica_name(slot)}.log").read_text()

    def pids(self) -> dict[str, int]:
        """Return the process id of each program, from `make status`."""
        rows = (
            line.split()
            for line in self.done("status").splitlines()
            if line.startswith(("replica", "nginx", "locust ", "mlflow "))
        )
        return {row[0]: int(row[2]) for row in rows if row[1] in ("running", "starting")}


@dataclass
class Replica:
    """One Gunicorn master on a TCP port, without Nginx."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, target: str, document: object = None) -> tuple[int, Any]:
        return request_json(self.address, method, target, document)

    def wait_ready(self) -> None:
        """Wait for a 200 of /ready; fail with the log if the process ends, or after 120 seconds."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.ask("GET", "/ready")[0] == 200

        wait_until(is_ready, seconds=120, pause=0.1, describe=self.log.read_text)

    def stop(self) -> None:
        """Send SIGTERM to the master, and wait until it has drained."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


StartReplica = Callable[..., Replica]


def launch(model: Path, log: Path, **settings: str) -> Replica:
    """Run `gunicorn -c gunicorn.conf.py` with a model's folder and settings, and its var folder beside the log."""
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
