"""Registration of the trained Covertype model: log it, register it, check the registered copy, make it the champion."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from deploy.models.registry.client import registry_errors
from deploy.models.registry.pointer import Pointer
from deploy.models.registry.versions import CHECK_TAG, RegisteredVersion, register_folder
from deploy.models.training.form import Covertype
from deploy.models.training.package import find_fault, save
from deploy.models.training.pipeline import HELD_OUT, Fitted
from server.errors import ModelError, first_line
from server.settings import Settings

NAME = "covertype"
ALIAS = "champion"

# MLflow's limit in characters; a fault may quote a long error message.
_MAX_TAG_LENGTH = 1000


def publish(fitted: Fitted, data: Covertype, experiment: str, settings: Settings) -> RegisteredVersion:
    """Log the model and its scores, register it, check the registered copy, and make it the champion.

    Raises:
        ModelError: the registered copy failed the check; the champion stays the same.
        RegistryError: the registry does not answer.

    """
    with registry_errors(settings.tracking_uri), mlflow.start_run(experiment_id=experiment) as run:
        version = register(fitted, data, run.info.run_id)
        make_champion(version, fitted)
    return version


def register(fitted: Fitted, data: Covertype, run_id: str) -> RegisteredVersion:
    """Log the parameters, the metrics and the model to the active run, and register the model as a new version."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        save(fitted, data, folder)
        _log(fitted, data, folder)
        return register_folder(folder, NAME, run_id, {"trained_on": data.source})


def make_champion(version: RegisteredVersion, fitted: Fitted) -> None:
    """Download ``version`` from the registry, check it, and make it the champion if it passes.

    Raises:
        ModelError: the check failed; the version's tag ``check`` holds the reason.

    """
    client = MlflowClient()
    fault = _find_version_fault(version, fitted)
    if fault:
        client.set_model_version_tag(NAME, version.number, CHECK_TAG, f"failed: {fault}"[:_MAX_TAG_LENGTH])
        raise ModelError(f"{NAME} version {version.number} failed its check, @{ALIAS} was not moved: {fault}")
    client.set_model_version_tag(NAME, version.number, CHECK_TAG, "passed")
    Pointer(NAME, ALIAS).move(version.number)


def _find_version_fault(version: RegisteredVersion, fitted: Fitted) -> str | None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = mlflow.artifacts.download_artifacts(f"models:/{NAME}/{version.number}", dst_path=scratch)
        except (MlflowException, OSError) as error:
            return f"it cannot be downloaded: {first_line(error)}"
        return find_fault(Path(folder), version.digest, fitted)


def _log(fitted: Fitted, data: Covertype, folder: Path) -> None:
    forest = fitted.pipeline.named_steps["forest"]
    data_params = {
        "trained_on": data.source,
        "rows": len(data.y),
        "held_out": HELD_OUT,
        "forest": type(forest).__name__,
    }
    mlflow.log_params(
        data_params | {f"forest__{name}": value for name, value in forest.get_params().items() if value is not None}
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
