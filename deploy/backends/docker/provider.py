"""The one-shot service `model`, which brings a model into the volume of the replicas and runs other model programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from deploy.backends.docker.engine import Compose
from deploy.errors import CommandError

_RUN_MODEL_SERVICE = ("run", "--rm", "--no-TTY", "--no-deps", "model")
_CURRENT = "/var/lib/forkcast/models/current.json"


def provide(compose: Compose) -> str:
    """Make the model that the stack asks for the current one; return its :func:`model_id`.

    Raises:
        CommandError: there is no such model, with the reason; the current model stays.
    """
    compose.run_visibly(*_RUN_MODEL_SERVICE)
    record = current_record(compose)
    return model_id(str(record.get("digest")), str(record.get("version")))


def model_id(digest: str, version: str) -> str:
    """Return a short text that identifies a model version and its files."""
    return f"{digest[:12]}-{version}"


def undo(compose: Compose) -> None:
    """Make the model that was current before the last :func:`provide` current again."""
    compose.run(*_RUN_MODEL_SERVICE, "python", "-m", "deploy.models.provide", "--undo")


def train(compose: Compose) -> None:
    """Train, check and register a model.

    Raises:
        CommandError: the training failed, with the reason.
    """
    compose.run_visibly(*_RUN_MODEL_SERVICE, "python", "-m", "deploy.models.training.train")


def record(compose: Compose, document: str) -> None:
    """Log measured runs in the registry (deploy/models/registry/record.py).

    Raises:
        CommandError: no run was logged, with the reason.
    """
    try:
        run_program(compose, "deploy.models.registry.record", text=document)
    except CommandError as error:
        raise CommandError(f"no run was logged: {error}") from None


def run_program(compose: Compose, module: str, *arguments: str, text: str = "") -> str:
    """Run a module in the service with ``text`` on its standard input; return what it printed.

    Raises:
        CommandError: the program failed, with the reason that it printed.
    """
    try:
        return compose.run(*_RUN_MODEL_SERVICE, "python", "-m", module, *arguments, text=text)
    except CommandError as error:
        raise CommandError(str(error).partition("error: ")[2] or str(error)) from None


def compile_model(compose: Compose, folder: Path | None, rows: Path | None, engine: str) -> None:
    """Compile the model that the stack asks for; ``folder`` is its folder, unless a registry has it.

    Raises:
        CommandError: the compilation failed, with the reason.
    """
    options = ["--env", f"ENGINE={engine}"]
    if rows is not None:
        options += ["--env", f"DATA={rows}", "--volume", f"{rows}:{rows}:ro"]
    if folder is not None:  # The result is written next to the folder, and the user must own it.
        options += ["--volume", f"{folder.parent}:{folder.parent}", "--user", f"{os.getuid()}:{os.getgid()}"]
    *run, service = _RUN_MODEL_SERVICE
    compose.run_visibly(*run, *options, service, "python", "-m", "deploy.models.compile.compile_model")


def current_record(compose: Compose) -> dict[str, Any]:
    """Return the record of the current copy of the model (server/model_store/copies.py); empty if there is none."""
    try:
        record = json.loads(compose.run(*_RUN_MODEL_SERVICE, "cat", _CURRENT))
    except (CommandError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
