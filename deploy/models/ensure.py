"""A model to serve: found where MODEL_URI says, or trained where nobody has one yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy.errors import CommandError
from deploy.options import ModelOptions
from server.errors import ModelError, StartError
from server.model_store.copies import Copy
from server.model_store.resolve import resolve_in_child
from server.settings import ROOT, Settings


def ensure_model(options: ModelOptions) -> Copy:
    """Resolve the model once before anything starts; train the default one into a registry that lacks it.

    Raises:
        CommandError: it is not there and not ours to train, or training failed.
    """
    try:
        return resolve_in_child(options.environment)
    except StartError as error:
        if not _ours_to_train(error, options):
            raise CommandError(str(error)) from None
        print("no model is registered yet: training one on Covertype", flush=True)
        _train(options)
        return resolve_in_child(options.environment)


def _ours_to_train(error: StartError, options: ModelOptions) -> bool:
    """Only the default model in a registry of the stack's, and only if it is not there rather than damaged."""
    settings = options.settings
    default = Settings.from_env({"VAR_DIR": str(settings.var_dir)})
    if settings.model_uri != default.model_uri:
        return False
    if settings.tracking_uri != default.tracking_uri:
        return settings.tracking_uri == options.own_registry and isinstance(error, ModelError)
    database = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    return isinstance(error, ModelError) or not database.exists()


def _train(options: ModelOptions) -> None:
    trained = subprocess.run(
        [sys.executable, "-m", "deploy.models.training.train"], env=dict(options.environment), cwd=ROOT, check=False
    )
    if trained.returncode:
        raise CommandError("training failed; nothing was started")
