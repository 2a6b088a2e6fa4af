"""The composition root: settings -> model -> app. Gunicorn's master calls it at the start and at each reload."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace

from server.engines.loading import load_model
from server.errors import StartError
from server.http.api_keys import KeysFile
from server.http.app import create_app
from server.http.middleware import Reload, ReplicaApp
from server.inference.model import Model
from server.metrics.counts import Metrics
from server.metrics.folder import METRICS_FOLDER
from server.model_store.copies import Copy
from server.model_store.resolve import resolve_in_child
from server.settings import Settings
from server.system import cgroup, memory_sizes
from server.workers.trial import tried

logger = logging.getLogger(__name__)


def create() -> ReplicaApp:
    """Return the application of a replica that starts, with its model loaded.

    This is a factory because a module-level app would keep the first model in memory through every reload.

    Raises:
        SystemExit: the replica cannot start; the status is 1, and one line on standard error has the reason.
    """
    try:
        settings = Settings.from_env(os.environ)
        logging.basicConfig(
            stream=sys.stderr, level=settings.log_level_number, format="%(asctime)s %(levelname)s %(message)s"
        )
        keys = KeysFile(settings.api_keys_file) if settings.api_keys_file else None
        copy = resolve_in_child(os.environ)
        if shortage := memory_sizes.shortage_warning(cgroup.memory_limit(), copy.needs):
            logger.warning(shortage)
        model = _load(copy, settings)
    except StartError as error:
        sys.exit(f"forkcast: {error}")
    if model.trained_on == "synthetic":
        logger.warning("this model was trained on SYNTHETIC data; its predictions mean nothing")
    return create_app(settings, model, metrics=Metrics(METRICS_FOLDER.path), keys=keys)


def reload(previous: ReplicaApp) -> ReplicaApp:
    """Return the application for the workers of a reload.

    It serves the model that MODEL_URI resolves to now, or the previous model if that one cannot be served. No error
    is raised, because an exception in the master would end the replica: it is logged and reported by ``/health``.
    """
    number = previous.reload.number + 1
    settings = Settings.from_env(os.environ)  # Gunicorn has just run gunicorn.conf.py again, which validates them.
    metrics, keys = previous.metrics, previous.keys
    try:
        return create_app(settings, _current_model(previous.model, settings), Reload(number), metrics, keys)
    except StartError as error:
        reason = str(error)
        logger.error("%s; version %s stays in service", reason, previous.model.version)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        logger.exception("the model could not be loaded; version %s stays in service", previous.model.version)
    return create_app(settings, previous.model, Reload(number, reason), metrics, keys)


def _current_model(previous: Model, settings: Settings) -> Model:
    """Return the model that MODEL_URI resolves to now; load it only if it is not the previous one."""
    copy = resolve_in_child(os.environ)
    served = (previous.digest, previous.registered_name, previous.version)
    if (copy.digest, copy.registered_name, copy.version) == served:
        return replace(previous, uri=copy.uri, stale=copy.stale, needs=copy.needs)
    return _load(copy, settings)


def _load(copy: Copy, settings: Settings) -> Model:
    """Load the model and let it predict in a child process.

    Raises:
        ModelError: the model cannot be loaded, or cannot predict.
    """
    model = load_model(copy, settings.engine, settings.kernels_dir, settings.model_name)
    model = tried(model, copy.model_folder)
    logger.info(
        "model loaded: %s version %s, engine %s, trained on %s, process %d",
        model.name, model.version, model.engine.name, model.trained_on or "not recorded", os.getpid(),
    )  # fmt: skip
    return model
