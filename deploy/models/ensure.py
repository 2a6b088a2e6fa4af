"""A model to serve: found where MODEL_URI says, or trained where nobody has one yet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import CommandError
from server.errors import ModelError, StartError
from server.model_store.copies import Copy
from server.model_store.resolve import resolve_in_child
from server.settings import ROOT, Settings


def ensure_model(environ: Mapping[str, str]) -> Copy:
    """Resolve the model once before anything starts; train the default one into a registry that lacks it.

    Raises:
        CommandError: it is not there and not ours to train, or training failed.
    """
    try:
        return resolve_in_child(environ)
    except StartError as error:
        if not _ours_to_train(error, environ):
            raise CommandError(str(error)) from None
        print("no model is registered yet: training one on Covertype", flush=True)
        _train(environ)
        return resolve_in_child(environ)


def _ours_to_train(error: StartError, environ: Mapping[str, str]) -> bool:
    """Only the default model in a registry of the stack's, and only if it is not there rather than damaged."""
    settings = Settings.from_env(environ)
    default = Settings.from_env({"VAR_DIR": environ.get("VAR_DIR", "")})
    if settings.model_uri != default.model_uri:
        return False
    if settings.tracking_uri != default.tracking_uri:
        return settings.tracking_uri == environ.get("STACK_REGISTRY") and isinstance(error, ModelError)
    database = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    return isinstance(error, ModelError) or not database.exists()


def _train(environ: Mapping[str, str]) -> None:
    trained = subprocess.run(
        [sys.executable, "-m", "deploy.models.training.train"], env=dict(environ), cwd=ROOT, check=False
    )
    if trained.returncode:
        raise CommandError("training failed; nothing was started")
