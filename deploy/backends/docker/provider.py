"""The one-shot service `model`: what brings a model into the replicas' volume, and says which one is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from deploy.backends.docker.engine import Compose
from deploy.errors import CommandError

_ONCE = ("run", "--rm", "--no-TTY", "--no-deps", "model")
_CURRENT = "/var/lib/forkcast/models/current.json"


def provide(compose: Compose) -> str:
    """Make the model that the stack asks for the current one; what tells it from another.

    Raises:
        CommandError: there is none, for the reason that the service has printed; the current one stays.
    """
    if compose.show(*_ONCE):
        raise CommandError("there is no model to serve; nothing was changed")
    record = current(compose)
    return identity(str(record.get("digest")), str(record.get("version")))


def identity(digest: str, version: str) -> str:
    """What tells one model from another."""
    return f"{digest[:12]}-{version}"


def undo(compose: Compose) -> None:
    """Make the model before that the current one again."""
    compose.run(*_ONCE, "python", "-m", "deploy.models.provide", "--undo")


def train(compose: Compose) -> None:
    """Fit, check and register a model.

    Raises:
        CommandError: for the reason that the service has printed.
    """
    if compose.show(*_ONCE, "python", "-m", "deploy.models.training.train"):
        raise CommandError("no model was trained")


def record(compose: Compose, document: str) -> None:
    """Log measured runs in the registry (deploy/models/registry/record.py).

    Raises:
        CommandError: for the reason that the service has told.
    """
    try:
        step(compose, "deploy.models.registry.record", text=document)
    except CommandError as error:
        raise CommandError(f"no run was logged: {error}") from None


def step(compose: Compose, program: str, *arguments: str, text: str = "") -> str:
    """Run another program of the service, with ``text`` on its standard input; what it printed.

    Raises:
        CommandError: for the reason that the service has told.
    """
    try:
        return compose.run(*_ONCE, "python", "-m", program, *arguments, text=text)
    except CommandError as error:
        raise CommandError(str(error).partition("error: ")[2] or str(error)) from None


def compile_model(compose: Compose, folder: Path | None, rows: Path | None, engine: str) -> None:
    """Compile the model that the stack asks for; ``folder`` is where it is, if that is a folder of this machine.

    Raises:
        CommandError: for the reason that the service has printed.
    """
    options = ["--env", f"ENGINE={engine}"]
    if rows is not None:
        options += ["--env", f"DATA={rows}", "--volume", f"{rows}:{rows}:ro"]
    if folder is not None:  # the result goes beside it, and is to be the user's
        options += ["--volume", f"{folder.parent}:{folder.parent}", "--user", f"{os.getuid()}:{os.getgid()}"]
    *run, service = _ONCE
    if compose.show(*run, *options, service, "python", "-m", "deploy.models.compile.compile_model"):
        raise CommandError("no model was compiled")


def current(compose: Compose) -> dict[str, Any]:
    """The record of the current copy (server/model_store/copies.py); empty where there is none."""
    try:
        record = json.loads(compose.run(*_ONCE, "cat", _CURRENT))
    except (CommandError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
