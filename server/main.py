"""The composition root: settings -> model -> app. Gunicorn calls :func:`create` in its master."""

from __future__ import annotations

import logging
import os
import sys

from starlette.types import ASGIApp

from server import cgroup, memory
from server.app import create_app
from server.errors import StartError
from server.model import load_model
from server.resolve import resolve_in_child
from server.settings import Settings

logger = logging.getLogger(__name__)


def create() -> ASGIApp:
    """A factory, not a module-level app: that one would pin the first model through every reload.

    Raises:
        SystemExit: the replica cannot start; the status is 1 and the reason one line on standard error.
    """
    try:
        settings = Settings.from_env(os.environ)
        logging.basicConfig(
            stream=sys.stderr, level=settings.log_number, format="%(asctime)s %(levelname)s %(message)s"
        )
        copy = resolve_in_child(os.environ)
        if shortage := memory.shortage(cgroup.memory_limit(), copy.needs):
            logger.warning(shortage)
        model = load_model(copy, settings.engine, settings.kernels_dir)
    except StartError as error:
        sys.exit(f"forkcast: {error}")
    logger.info(
        "model loaded: %s version %s, engine %s, trained on %s, process %d",
        model.name, model.version, model.engine.name, model.trained_on or "not recorded", os.getpid(),
    )  # fmt: skip
    if model.trained_on == "synthetic":
        logger.warning("this model was trained on SYNTHETIC data; its predictions mean nothing")
    return create_app(settings, model)
