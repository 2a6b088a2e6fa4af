"""The registry: reached before the work starts, given a version, and told which version is the champion."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from deploy.models.registry.client import connect_to_database, first_line, reported
from deploy.models.registry.pointer import Pointer
from deploy.models.training.form import Covertype
from deploy.models.training.package import fault_of, save
from deploy.models.training.pipeline import HELD_OUT, Fitted
from server.errors import ModelError, RegistryError
from server.model_store.copies import Copy
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.settings import Settings

NAME = "covertype"
ALIAS = "champion"
CHECK_TAG = "check"

# MLflow takes no tag that is longer; a fault may quote any library.
_MAX_TAG = 1000


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version, and the digest of the folder that was registered."""

    number: str
    digest: str


def open_experiment(settings: Settings, name: str = NAME) -> str:
    """The id of the experiment ``name``, made where it is missing.

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


def publish(fitted: Fitted, data: Covertype, experiment: str, settings: Settings) -> Version:
    """Log the model and what it scored, register it, check the registered copy, and make it the champion.

    Raises:
        ModelError: the copy is not the model that was fitted; the champion is the one it was before.
        RegistryError: the registry stopped answering.

    """
    with reported(settings.tracking_uri), mlflow.start_run(experiment_id=experiment) as run:
        version = register(fitted, data, run.info.run_id)
        promote(version, fitted)
    return version


def register(fitted: Fitted, data: Covertype, run_id: str) -> Version:
    """Log the parameters, the metrics and the model to the active run, and register the model as a new version."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        save(fitted, data, folder)
        _log(fitted, data, folder)
        return _new_version(folder, NAME, run_id, {"trained_on": data.source})


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
        version = _new_version(folder, source.name, run.info.run_id, told)
    return f"models:/{source.name}/{version.number}"


def _new_version(folder: Path, name: str, run_id: str, tags: dict[str, str]) -> Version:
    """Log the model in ``folder`` to the active run, and register it with its digest."""
    digest = folder_digest(folder)
    mlflow.log_artifacts(str(folder), "model")
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow congratulates there, past its own logger
        made = mlflow.register_model(f"runs:/{run_id}/model", name, tags={**tags, DIGEST_TAG: digest})
    return Version(str(made.version), digest)


def promote(version: Version, fitted: Fitted) -> None:
    """Check what the registry gives back for ``version``; only a copy that passes becomes the champion.

    Raises:
        ModelError: the check failed; the version says so in its tag ``check``.

    """
    client = MlflowClient()
    fault = _fault_of_version(version, fitted)
    if fault:
        client.set_model_version_tag(NAME, version.number, CHECK_TAG, f"failed: {fault}"[:_MAX_TAG])
        raise ModelError(f"{NAME} version {version.number} failed its check, @{ALIAS} stays as it was: {fault}")
    client.set_model_version_tag(NAME, version.number, CHECK_TAG, "passed")
    Pointer(NAME, ALIAS).move(version.number)


def _fault_of_version(version: Version, fitted: Fitted) -> str | None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = mlflow.artifacts.download_artifacts(f"models:/{NAME}/{version.number}", dst_path=scratch)
        except (MlflowException, OSError) as error:
            return f"it cannot be downloaded: {first_line(error)}"
        return fault_of(Path(folder), version.digest, fitted)


def _log(fitted: Fitted, data: Covertype, folder: Path) -> None:
    forest = fitted.pipeline.named_steps["forest"]
    told = {"trained_on": data.source, "rows": len(data.y), "held_out": HELD_OUT, "forest": type(forest).__name__}
    mlflow.log_params(
        told | {f"forest__{name}": value for name, value in forest.get_params().items() if value is not None}
    )
    mlflow.log_metrics(
        {
            "accuracy": fitted.accuracy,
            "macro_f1": fitted.macro_f1,
            "nodes": fitted.nodes,
            "model_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "fit_seconds": fitted.seconds,
        }
    )


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
