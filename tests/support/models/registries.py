"""A real registry for tests: MLflow on a SQLite file, with tiny models whose folders the tests write."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.model_store.digest import DIGEST_TAG, folder_digest
from server.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    import mlflow

# MLflow 3.17 itself causes these: its tables under SQLAlchemy 2.1, and calls of its own deprecated functions.
IGNORE_MLFLOW_WARNINGS = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning"),
]


@dataclass(frozen=True)
class Registry:
    """A registry in a folder: ``mlflow.db`` and the folder ``artifacts``."""

    folder: Path

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def settings(self, var_dir: Path, uri: str) -> Settings:
        return Settings.from_env({"VAR_DIR": str(var_dir), "MLFLOW_TRACKING_URI": self.tracking_uri, "MODEL_URI": uri})

    def artifacts_of(self, run: str) -> Path:
        return self.folder / "artifacts" / run / "artifacts" / "model"

    def register(self, name: str, folder: Path, digest: str | None = None, **tags: str) -> tuple[str, str, str]:
        """Log and register a model's folder as the trainer does; return the version, its digest and its run id."""
        digest = digest or folder_digest(folder)
        with mlflow.start_run(experiment_id="1") as run:
            mlflow.log_artifacts(str(folder), "model")
            with contextlib.redirect_stderr(io.StringIO()):
                registered = mlflow.register_model(
                    f"runs:/{run.info.run_id}/model", name, tags={**tags, DIGEST_TAG: digest}
                )
        return str(registered.version), digest, run.info.run_id


@contextlib.contextmanager
def new_registry(folder: Path) -> Iterator[Registry]:
    """Create an empty registry and make it MLflow's default until the block ends.

    Creating the tables takes seconds, so that fixtures should do this once per module.
    """
    registry = Registry(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest's filterwarnings marks do not apply to module fixtures
        for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": "", "no_proxy": "*"}.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(registry.tracking_uri)
        experiment_id = mlflow.create_experiment("tiny", artifact_location=(folder / "artifacts").as_uri())
        assert experiment_id == "1"
        yield registry
        mlflow.set_tracking_uri(None)


@contextlib.contextmanager
def moved_away(registry: Registry) -> Iterator[Path]:
    """Move the registry's database away until the block ends, and yield its usual path."""
    database = registry.folder / "mlflow.db"
    database.rename(database.with_suffix(".moved"))
    try:
        yield database
    finally:
        database.with_suffix(".moved").replace(database)
