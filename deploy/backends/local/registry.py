"""MLflow's server as a local program: on the SQLite file and the folder of `make up`, or on what the user names."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from deploy.backends.local.supervisord import Program, Supervisord
from deploy.errors import CommandError, logged_reason
from deploy.rollout import replica_client
from deploy.stack import registry_services
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.files import write_atomically

# Where everything on this machine reaches the stack's own MLflow.
ADDRESS = "http://127.0.0.1:{port}"
# One that its database answers.
_QUESTION = "/api/2.0/mlflow/registered-models/search?max_results=1"
# Seconds that it may take from its start to its first answer.
_READY_TIMEOUT = 180


def programs(stack: Stack, layout: Layout) -> list[Program]:
    """MLflow's server; none where the stack has no registry of its own."""
    if not stack.full:
        return []
    path, settings = layout.run / "mlflow.json", json.dumps(_settings(stack, layout))
    write_atomically(path, settings, 0o600)
    environment = {
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "PORT": str(stack.mlflow_port),
        # By a file: what `env` is told, everybody may see.
        "SETTINGS_FILE": str(path),
        # Other settings make another program, which supervisord then starts anew.
        "CONFIG_DIGEST": sha256(settings.encode()).hexdigest(),
    }
    return [
        Program(
            registry_services.MLFLOW,
            [sys.executable, "-m", "deploy.models.registry.tracking_server"],
            environment,
            stop_seconds=20,
        )
    ]


def start(supervisord: Supervisord, stack: Stack, others: Sequence[Program], layout: Layout) -> None:
    """Run MLflow beside the programs that there are, and wait until it answers.

    Raises:
        CommandError: it does not.
    """
    supervisord.write([*others, *programs(stack, layout)])
    added, changed, _ = supervisord.difference()
    if registry_services.MLFLOW in added:
        supervisord.add(registry_services.MLFLOW)
    elif registry_services.MLFLOW in changed:
        supervisord.replace(registry_services.MLFLOW)
    elif supervisord.info().get(registry_services.MLFLOW, {}).get("statename") in ("STOPPED", "EXITED", "FATAL"):
        supervisord.revive(registry_services.MLFLOW)
    _wait(supervisord, stack, lambda: reason(layout))


def reason(layout: Layout) -> str:
    """Our own last line in its log, else its last line."""
    return logged_reason(layout.log(registry_services.MLFLOW).read_text(errors="replace"), "error: ")


def _wait(supervisord: Supervisord, stack: Stack, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT
    while time.monotonic() < deadline:
        if replica_client.ask_address(registry_services.page(stack), "GET", _QUESTION)[0] == 200:
            return
        state = supervisord.info().get(registry_services.MLFLOW, {}).get("statename")
        if state in ("BACKOFF", "EXITED", "FATAL"):
            raise CommandError(f"{registry_services.MLFLOW} did not start: {why()}")
        time.sleep(0.2)
    raise CommandError(
        f"{registry_services.MLFLOW} was not ready in {_READY_TIMEOUT} s; see make logs S={registry_services.MLFLOW}"
    )


def _settings(stack: Stack, layout: Layout) -> dict[str, str]:
    """What the server is to work on."""
    own = registry_services.services(stack)
    settings = dict(stack.registry)
    if registry_services.DATABASE in own:
        settings["DATABASE_URL"] = f"sqlite:///{layout.var}/mlflow.db"
    if registry_services.OBJECT_STORE in own:
        settings["ARTIFACTS"] = str(layout.var / "mlartifacts")
    return settings
