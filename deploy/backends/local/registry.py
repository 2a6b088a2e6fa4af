"""MLflow's server as a local program, with a SQLite file and a folder, or the stores that the user names."""

from __future__ import annotations

import json
import sys
from hashlib import sha256

from deploy.backends.local.supervisord import Program, Supervisord
from deploy.stack import registry_services
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.files import write_atomically

# The address of the stack's own MLflow on this machine.
ADDRESS = "http://127.0.0.1:{port}"


def programs(stack: Stack, layout: Layout) -> list[Program]:
    """Return the program of MLflow's server; empty if the stack does not have its own registry."""
    if not stack.full:
        return []
    path, settings = layout.run / "mlflow.json", json.dumps(_settings(stack, layout))
    write_atomically(path, settings, 0o600)
    environment = {
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "PORT": str(stack.mlflow_port),
        # The settings are in a file, since every user can read the arguments of `env`.
        "SETTINGS_FILE": str(path),
        # The digest makes supervisord restart the program when its settings change.
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
    """Start or update MLflow for this stack; the files of the other programs are not changed."""
    for program in programs(stack, layout):
        supervisord.write_program(program)
    added, changed, _ = supervisord.config_changes()
    if registry_services.MLFLOW in added:
        supervisord.add(registry_services.MLFLOW)
    elif registry_services.MLFLOW in changed:
        supervisord.replace(registry_services.MLFLOW)
    elif supervisord.info().get(registry_services.MLFLOW, {}).get("statename") in ("STOPPED", "EXITED", "FATAL"):
        supervisord.revive(registry_services.MLFLOW)


def _settings(stack: Stack, layout: Layout) -> dict[str, str]:
    """Return the settings of the server: its database and where it stores artifacts."""
    own = registry_services.own_services(stack)
    settings = dict(stack.registry)
    if registry_services.DATABASE in own:
        settings["DATABASE_URL"] = f"sqlite:///{layout.var}/mlflow.db"
    if registry_services.OBJECT_STORE in own:
        settings["ARTIFACTS"] = str(layout.var / "mlartifacts")
    return settings
