"""Registered versions of a model: experiments to log to, folders registered as the next version, compiled models."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from deploy.models.registry.client import connect_to_database, registry_errors
from server.errors import RegistryError
from server.model_store.copies import Copy
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.settings import Settings, is_model_name

# The tag of a version that holds the result of the check after its training: "passed", or "failed: " and the reason.
CHECK_TAG = "check"


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """The number of a registered version, and the digest of the folder that was registered."""

    number: str
    digest: str


def open_experiment(settings: Settings, name: str) -> str:
    """Return the id of the experiment ``name``, creating it if it is missing.

    Raises:
        RegistryError: the registry does not answer, or refuses to log a run.

    """
    mlflow.set_tracking_uri(settings.tracking_uri)
    with registry_errors(settings.tracking_uri):
        connect_to_database(settings.tracking_uri)
        experiment = mlflow.get_experiment_by_name(name) or _create_experiment(settings, name)
    if experiment.lifecycle_stage != "active":
        raise RegistryError(
            f"experiment {name} was deleted; restore it: `mlflow experiments restore -x {experiment.experiment_id}`"
        )
    return str(experiment.experiment_id)


def publish_compiled(folder: Path, source: Copy, settings: Settings) -> str:
    """Log a compiled model, register it as the next version if ``source`` is a registered one, and return its URI.

    Raises:
        RegistryError: the registry does not answer, or refuses to log a run.
    """
    experiment = open_experiment(settings, source.name)
    with registry_errors(settings.tracking_uri), mlflow.start_run(experiment_id=experiment) as run:
        mlflow.set_tag("forkcast.compiled_from", source.uri)
        if not source.registered:
            # The last part of the URI is what clients call the model, unless MODEL_NAME or MLmodel says otherwise.
            name = source.name if is_model_name(source.name) else "model"
            mlflow.log_artifacts(str(folder), name)
            return f"runs:/{run.info.run_id}/{name}"
        source_tags = MlflowClient().get_model_version(source.name, source.version).tags
        tags = {**source_tags, "forkcast.compiled_from": source.version}
        version = register_folder(folder, source.name, run.info.run_id, tags)
    return f"models:/{source.name}/{version.number}"


def register_folder(folder: Path, name: str, run_id: str, tags: dict[str, str]) -> RegisteredVersion:
    """Log the model in ``folder`` to the active run, and register it as the next version, tagged with its digest."""
    digest = folder_digest(folder)
    mlflow.log_artifacts(str(folder), "model")
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints a success message there, bypassing its logger.
        version = mlflow.register_model(f"runs:/{run_id}/model", name, tags={**tags, DIGEST_TAG: digest})
    return RegisteredVersion(str(version.version), digest)


def _create_experiment(settings: Settings, name: str) -> mlflow.entities.Experiment:
    # For a SQLite registry MLflow would store artifacts in the current folder of this process.
    scheme, _, database = settings.tracking_uri.partition(":///")
    location = (Path(database).absolute().parent / "mlartifacts").as_uri() if scheme == "sqlite" else None
    try:
        experiment_id = mlflow.create_experiment(name, artifact_location=location)
    except MlflowException:
        # Another process may have created it in the meantime.
        if existing := mlflow.get_experiment_by_name(name):
            return existing
        raise
    return mlflow.get_experiment(experiment_id)
