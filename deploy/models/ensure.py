"""The model that a stack serves: resolved from MODEL_URI, or trained when the registry is still empty."""

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
    """Resolve the model before anything starts, training the default model if the registry does not have it yet.

    Raises:
        CommandError: the model cannot be resolved and is not the default one, or training failed.
    """
    try:
        return resolve_in_child(options.environment)
    except StartError as error:
        if not _may_train(error, options):
            raise CommandError(str(error)) from None
        _train(options)
        return resolve_in_child(options.environment)


def _may_train(error: StartError, options: ModelOptions) -> bool:
    """Return whether the default model is missing from a registry that belongs to this stack.

    A model that exists and is damaged, or a registry of the user's, is never trained into.
    """
    settings = options.settings
    default = Settings.from_env({"VAR_DIR": str(settings.var_dir)})
    if settings.model_uri != default.model_uri:
        return False
    if settings.tracking_uri != default.tracking_uri:
        return settings.tracking_uri == options.own_registry and isinstance(error, ModelError)
    database = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    return isinstance(error, ModelError) or not database.exists()


def _train(options: ModelOptions) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "deploy.models.training.train"], env=dict(options.environment), cwd=ROOT, check=False
    )
    if completed.returncode:
        raise CommandError("training failed, see the lines above; nothing was started")
