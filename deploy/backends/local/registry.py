"""MLflow's server as a local program: on the SQLite file and the folder of `make up`, or on what the user names."""

from __future__ import annotations

import json
import sys
from hashlib import sha256

from deploy.backends.local.supervisord import Program, Supervisord
from deploy.stack import registry_services
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.files import write_atomically

# Where everything on this machine reaches the stack's own MLflow.
ADDRESS = "http://127.0.0.1:{port}"


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


def start(supervisord: Supervisord, stack: Stack, layout: Layout) -> None:
    """Run MLflow as this stack asks for it, beside the programs that there are, whose files are left as they are."""
    for program in programs(stack, layout):
        supervisord.write_one(program)
    added, changed, _ = supervisord.difference()
    if registry_services.MLFLOW in added:
        supervisord.add(registry_services.MLFLOW)
    elif registry_services.MLFLOW in changed:
        supervisord.replace(registry_services.MLFLOW)
    elif supervisord.info().get(registry_services.MLFLOW, {}).get("statename") in ("STOPPED", "EXITED", "FATAL"):
        supervisord.revive(registry_services.MLFLOW)


def _settings(stack: Stack, layout: Layout) -> dict[str, str]:
    """What the server is to work on."""
    own = registry_services.own_services(stack)
    settings = dict(stack.registry)
    if registry_services.DATABASE in own:
        settings["DATABASE_URL"] = f"sqlite:///{layout.var}/mlflow.db"
    if registry_services.OBJECT_STORE in own:
        settings["ARTIFACTS"] = str(layout.var / "mlartifacts")
    return settings
