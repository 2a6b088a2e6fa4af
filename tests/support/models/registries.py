"""A real registry for the tests: MLflow on a SQLite file, with tiny models whose folders the tests write."""

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
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
    import mlflow

# MLflow 3.17 inside: its tables under SQLAlchemy 2.1, and its own use of what it has deprecated.
IGNORE_MLFLOW_WARNINGS = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning"),
]


@dataclass(frozen=True)
class Registry:
    """What is in a folder: ``mlflow.db``, and the artifacts beside it."""

    folder: Path

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def settings(self, var_dir: Path, uri: str) -> Settings:
        return Settings.from_env({"VAR_DIR": str(var_dir), "MLFLOW_TRACKING_URI": self.tracking_uri, "MODEL_URI": uri})

    def artifacts_of(self, run: str) -> Path:
        return self.folder / "artifacts" / run / "artifacts" / "model"

    def register(self, name: str, folder: Path, digest: str | None = None, **tags: str) -> tuple[str, str, str]:
        """Log and register a model's folder as the trainer does; the version, its digest and its run."""
        digest = digest or folder_digest(folder)
        with mlflow.start_run(experiment_id="1") as run:
            mlflow.log_artifacts(str(folder), "model")
            with contextlib.redirect_stderr(io.StringIO()):
                made = mlflow.register_model(f"runs:/{run.info.run_id}/model", name, tags={**tags, DIGEST_TAG: digest})
        return str(made.version), digest, run.info.run_id


@contextlib.contextmanager
def new_registry(folder: Path) -> Iterator[Registry]:
    """An empty registry, which is MLflow's until the block ends. Making the tables takes seconds: once a module."""
    registry = Registry(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # marks do not reach into fixtures of a module
        for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": "", "no_proxy": "*"}.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(registry.tracking_uri)
        made = mlflow.create_experiment("tiny", artifact_location=(folder / "artifacts").as_uri())
        assert made == "1"
        yield registry
        mlflow.set_tracking_uri(None)


@contextlib.contextmanager
def moved_away(registry: Registry) -> Iterator[Path]:
    """The registry's database, moved away, and back again."""
    database = registry.folder / "mlflow.db"
    database.rename(database.with_suffix(".moved"))
    try:
        yield database
    finally:
        database.with_suffix(".moved").replace(database)
