"""Registered versions of a model: experiments to log to, folders registered as the next version, compiled models."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from deploy.models.registry.client import connect_to_database, reported
from server.errors import RegistryError
from server.model_store.copies import Copy
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.settings import Settings

# The tag of a version that says whether it passed the check after its training.
CHECK_TAG = "check"


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A registered version, and the digest of the folder that was registered."""

    number: str
    digest: str


def open_experiment(settings: Settings, name: str) -> str:
    """Return the id of the experiment ``name``, which is made where it is missing.

    Raises:
        RegistryError: the registry does not answer, or not in a way that lets a run be logged.

    """
    mlflow.set_tracking_uri(settings.tracking_uri)
    with reported(settings.tracking_uri):
        connect_to_database(settings.tracking_uri)
        found = mlflow.get_experiment_by_name(name) or _new_experiment(settings, name)
    if found.lifecycle_stage != "active":
        raise RegistryError(f"experiment {name} was deleted: `mlflow experiments restore -x {found.experiment_id}`")
    return str(found.experiment_id)


def publish_compiled(folder: Path, source: Copy, settings: Settings) -> str:
    """Log a compiled model and, where ``source`` is a registered version, register it as the next; its URI.

    Raises:
        RegistryError: the registry does not answer, or not in a way that lets a run be logged.
    """
    experiment = open_experiment(settings, source.name)
    with reported(settings.tracking_uri), mlflow.start_run(experiment_id=experiment) as run:
        mlflow.set_tag("forkcast.compiled_from", source.uri)
        if not source.registered:
            mlflow.log_artifacts(str(folder), "model")
            return f"runs:/{run.info.run_id}/model"
        tags = MlflowClient().get_model_version(source.name, source.version).tags
        told = {**tags, "forkcast.compiled_from": source.version}
        version = register_folder(folder, source.name, run.info.run_id, told)
    return f"models:/{source.name}/{version.number}"


def register_folder(folder: Path, name: str, run_id: str, tags: dict[str, str]) -> RegisteredVersion:
    """Log the model in ``folder`` to the active run, and register it as the next version, with its digest."""
    digest = folder_digest(folder)
    mlflow.log_artifacts(str(folder), "model")
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow congratulates there, past its own logger
        made = mlflow.register_model(f"runs:/{run_id}/model", name, tags={**tags, DIGEST_TAG: digest})
    return RegisteredVersion(str(made.version), digest)


def _new_experiment(settings: Settings, name: str) -> mlflow.entities.Experiment:
    # MLflow would put the artifacts of a SQLite registry into the folder that the trainer happens to run in.
    kind, _, database = settings.tracking_uri.partition(":///")
    location = (Path(database).absolute().parent / "mlartifacts").as_uri() if kind == "sqlite" else None
    try:
        made = mlflow.create_experiment(name, artifact_location=location)
    except MlflowException:
        # Another process may have made it meanwhile.
        if found := mlflow.get_experiment_by_name(name):
            return found
        raise
    return mlflow.get_experiment(made)
