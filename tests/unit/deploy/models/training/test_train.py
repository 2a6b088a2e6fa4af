"""Tests of training on synthetic rows into a real SQLite registry."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

from deploy.models.registry.mlflow_variables import MLFLOW_VARIABLES
from deploy.models.training import train as trainer
from deploy.models.training.form import DOMAIN_RANGES, FEATURES, LABEL, PUBLISHED_RANGES, Covertype
from deploy.models.training.pipeline import Fitted, build_pipeline, covertype_forest, fit
from deploy.models.training.synthetic import generate
from deploy.options import ModelOptions
from server.engines.loading import load_model
from server.errors import InvalidRows, ModelError, RegistryError, SettingsError
from server.model_store.copies import Copy
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.settings import Settings
from tests.support.ports import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    import mlflow
    import mlflow.pyfunc
    import mlflow.sklearn

    from deploy.models.registry import versions
    from deploy.models.training import package, registration

# MLflow 3.17 uses forms that SQLAlchemy 2.1 and pandas 3 deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

ROWS = generate(rows=2_000, seed=3)
# These values exceed the published ranges, so that the model's observed ranges must follow the data.
ROWS.x[0, FEATURES.index("elevation")] = 4000
ROWS.x[1, FEATURES.index("vertical_distance_to_hydrology")] = -200


@dataclass(frozen=True)
class Trained:
    """The result of one training run: its environment, its summary line, and an equal fitted pipeline."""

    environ: dict[str, str]
    settings: Settings
    line: str
    fitted: Fitted


def small_forest() -> RandomForestClassifier:
    return RandomForestClassifier(n_estimators=4, max_leaf_nodes=200, random_state=0)


@pytest.fixture(scope="module", autouse=True)
def quiet_mlflow() -> Iterator[None]:
    """Reset the registry's address after the tests: MLflow keeps it in the process and in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (MLFLOW_VARIABLES | {"MLFLOW_TRACKING_URI": "", "no_proxy": "127.0.0.1"}).items():
            patch.setenv(name, value)
        yield
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    rows = folder / "rows.csv"
    pd.DataFrame(np.column_stack([ROWS.x, ROWS.y]).astype(int), columns=[*FEATURES, LABEL]).to_csv(rows, index=False)
    environ = {"VAR_DIR": str(folder / "var"), "COVERTYPE_PATH": str(rows)}
    line = trainer.train(ModelOptions.read(environ), small_forest())
    return Trained(environ, Settings.from_env(environ), line, fit(ROWS, small_forest()))


@pytest.fixture
def client(trained: Trained) -> Any:
    mlflow.set_tracking_uri(trained.settings.tracking_uri)
    return mlflow.MlflowClient()


def download(version: str, folder: Path) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"models:/covertype/{version}", dst_path=str(folder)))


def champion(client: Any) -> str:
    # MLflow returns a string over HTTP, and a number from SQLite.
    return str(client.get_model_version_by_alias("covertype", "champion").version)


def last_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("covertype")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]


def test_stratified_split_is_reproducible_with_its_scores(trained: Trained) -> None:
    """Each fit holds out the same stratified fifth of the rows, and computes its scores on them."""
    fitted = trained.fitted
    assert len(fitted.y_held) == 400
    assert set(fitted.y_held) == set(range(1, 8))
    assert fitted.accuracy == (fitted.pipeline.predict(fitted.x_held) == fitted.y_held).mean()
    assert 0.5 < fitted.accuracy < 1
    second = fit(ROWS, small_forest())
    assert np.array_equal(second.x_held, fitted.x_held)
    assert second.accuracy == fitted.accuracy


def test_pipeline_one_hot_encodes_codes_for_any_forest() -> None:
    """The pipeline encodes the two codes as 44 columns before any forest, and an unknown code as zeros."""
    pipeline = build_pipeline(RandomForestClassifier(n_estimators=1)).fit(ROWS.x, ROWS.y)
    row = ROWS.x[:1].copy()
    assert pipeline[:-1].transform(row).shape == (1, 54)
    assert pipeline[:-1].transform(row)[0, 10:].sum() == 2
    row[0, 11] = 99
    assert pipeline[:-1].transform(row)[0, 10:].sum() == 1


def test_default_forest_has_at_most_500000_nodes() -> None:
    """The limits of the default forest keep it below 500,000 nodes for any data."""
    forest = covertype_forest()
    assert forest.n_estimators * (2 * forest.max_leaf_nodes - 1) < 500_000


def test_training_registers_a_version_as_champion(trained: Trained, client: Any) -> None:
    """Training registers a version with its digest, source and check, and makes it the champion."""
    version = client.get_model_version_by_alias("covertype", "champion")
    fitted = trained.fitted
    assert champion(client) == "1"
    assert version.tags["trained_on"] == "file: rows.csv"
    assert version.tags["check"] == "passed"
    assert len(version.tags[DIGEST_TAG]) == 64
    assert trained.line == (
        f"covertype version 1 is @champion: accuracy {fitted.accuracy:.3f}, macro-F1 {fitted.macro_f1:.3f},"
        f" {fitted.nodes:,} nodes, trained on file: rows.csv"
    )


def test_training_run_records_parameters_metrics_and_size(trained: Trained, client: Any) -> None:
    """The training run is finished, has its parameters and metrics, and keeps its files under VAR_DIR."""
    run = client.get_run(client.get_model_version("covertype", "1").run_id)
    metrics = run.data.metrics
    assert run.info.status == "FINISHED"
    assert run.data.params["rows"] == "2000"
    assert run.data.params["forest__n_estimators"] == "4"
    assert set(metrics) == {"accuracy", "macro_f1", "nodes", "model_bytes", "fit_seconds"}
    assert metrics["accuracy"] == pytest.approx(trained.fitted.accuracy)
    assert metrics["nodes"] == trained.fitted.nodes
    model = trained.settings.var_dir / "mlartifacts" / run.info.run_id / "artifacts" / "model"
    assert metrics["model_bytes"] == sum(path.stat().st_size for path in model.rglob("*") if path.is_file())


def test_registered_model_has_signature_ranges_and_pins(client: Any, tmp_path: Path) -> None:
    """The registered copy has its digest, signature, ranges, example and pinned packages, and uses one thread."""
    folder = download("1", tmp_path)
    model = mlflow.models.Model.load(str(folder))
    assert folder_digest(folder) == client.get_model_version("covertype", "1").tags[DIGEST_TAG]
    assert [column.name for column in model.signature.inputs] == list(FEATURES)
    assert [column.type.name for column in model.signature.inputs] == ["double"] * 10 + ["long"] * 2
    assert [column.type.name for column in model.signature.outputs] == ["long"]
    domain, published = (
        {name: list(bounds) for name, bounds in ranges.items()} for ranges in (DOMAIN_RANGES, PUBLISHED_RANGES)
    )
    wider = {"elevation": [1859, 4000], "vertical_distance_to_hydrology": [-200, 601]}
    assert model.metadata == {"trained_on": "file: rows.csv", "ranges": domain, "observed": published | wider}
    assert model.load_input_example(str(folder)).to_numpy().tolist() == [list(package.EXAMPLE)]
    assert {line.split("==")[0] for line in (folder / "requirements.txt").read_text().split()} == {
        "mlflow", "scikit-learn", "numpy", "skops",
    }  # fmt: skip
    assert mlflow.sklearn.load_model(str(folder)).named_steps["forest"].n_jobs == 1


@pytest.mark.usefixtures("client")
def test_registered_model_refuses_only_what_cannot_be(tmp_path: Path) -> None:
    """A row outside what was observed in training is predicted, as is an unknown code; an impossible angle is not."""
    folder = download("1", tmp_path)
    model = load_model(Copy(folder, "covertype", "1", "models:/covertype/1", "0" * 64), "auto")
    schema = model.schema
    valid = [list(package.EXAMPLE), [9000.5, *package.EXAMPLE[1:]], [*package.EXAMPLE[:10], 0, 0]]
    rows = schema.to_rows(schema.parse({"instances": valid}, 3).values)
    expected = mlflow.sklearn.load_model(str(folder)).predict(rows.numbers)
    assert list(model.engine.predict(rows).labels) == expected.tolist()
    with pytest.raises(InvalidRows, match=r"features\.1 must be a number from 0 to 360, got 361"):
        schema.parse({"features": [2596, 361, *package.EXAMPLE[2:]]}, 1)


def test_corrupt_artifact_fails_check_and_keeps_champion(trained: Trained, client: Any) -> None:
    """A registered copy with a changed file fails its check, gets the reason as a tag, and does not become champion."""
    with mlflow.start_run(experiment_id=versions.open_experiment(trained.settings, registration.NAME)) as run:
        version = registration.register(trained.fitted, ROWS, run.info.run_id)
    stored = trained.settings.var_dir / "mlartifacts" / run.info.run_id / "artifacts" / "model" / "model.skops"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    with pytest.raises(ModelError, match=r"failed its check, @champion was not moved: its digest is [0-9a-f]{12}"):
        registration.make_champion(version, trained.fitted)
    assert champion(client) == "1"
    assert client.get_model_version("covertype", version.number).tags["check"].startswith("failed: its digest is")


def test_lost_artifact_fails_check_and_keeps_champion(trained: Trained, client: Any) -> None:
    """A registered version whose files are lost fails its check and does not become champion."""
    with mlflow.start_run(experiment_id=versions.open_experiment(trained.settings, registration.NAME)) as run:
        version = registration.register(trained.fitted, ROWS, run.info.run_id)
    shutil.rmtree(trained.settings.var_dir / "mlartifacts" / run.info.run_id)
    with pytest.raises(ModelError, match="failed its check"):
        registration.make_champion(version, trained.fitted)
    assert champion(client) == "1"
    assert client.get_model_version("covertype", version.number).tags["check"].startswith("failed: ")


def test_faulty_copy_is_reported_with_the_reason(trained: Trained, tmp_path: Path) -> None:
    """A copy is refused if its labels differ, if it is no better than one constant label, or if it does not load."""
    folder = tmp_path / "model"
    package.save(trained.fitted, ROWS, folder)
    digest = folder_digest(folder)
    assert package.find_fault(folder, digest, trained.fitted) is None
    other_model = fit(ROWS, RandomForestClassifier(n_estimators=1, max_depth=2, random_state=9))
    assert "labels differ" in str(package.find_fault(folder, digest, other_model))
    wrong = replace(trained.fitted, y_held=trained.fitted.y_held % 7 + 1)
    assert "no better than the most common label alone" in str(package.find_fault(folder, digest, wrong))
    (folder / "model.skops").write_bytes(b"not a zip")
    assert "it fails to predict: BadZipFile" in str(package.find_fault(folder, folder_digest(folder), trained.fitted))


def test_failed_check_fails_the_run(trained: Trained, client: Any) -> None:
    """A model trained on noise is registered but does not become champion, and its run has the status FAILED."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 8), 60))
    noise = Covertype(ROWS.x[:420], np.where(np.arange(420) % 3, 1, labels), "synthetic")
    fitted = fit(noise, RandomForestClassifier(n_estimators=1, random_state=0))
    experiment = versions.open_experiment(trained.settings, registration.NAME)
    with pytest.raises(ModelError, match="no better than the most common label alone"):
        registration.publish(fitted, noise, experiment, trained.settings)
    assert last_run(client).info.status == "FAILED"
    assert champion(client) == "1"


@pytest.mark.parametrize(
    "uri", ["http://user:secret@127.0.0.1:{port}", "mysql+pymysql://root:secret@127.0.0.1:{port}/db"]
)
def test_unreachable_registry_fails_early_without_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    """A registry that is down is reported within seconds, before the data is read, in one line without its password."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(port=port))
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setenv("COVERTYPE_PATH", str(tmp_path / "never-read.csv"))
    started = time.monotonic()
    assert trainer.main() == 1
    assert time.monotonic() - started < 20
    out, err = capsys.readouterr()
    assert out == ""
    shown_uri = uri.format(port=port).replace("user:secret@", "").replace("root:secret@", "")
    assert err == f"error: the registry at {shown_uri}: [Errno 111] Connection refused\n"


def test_deleted_experiment_is_reported_before_fitting(tmp_path: Path) -> None:
    """A deleted experiment is reported before the fit, with the command that restores it."""
    settings = Settings.from_env({"VAR_DIR": str(tmp_path)})
    experiment = versions.open_experiment(settings, registration.NAME)
    assert versions.open_experiment(settings, registration.NAME) == experiment
    mlflow.delete_experiment(experiment)
    with pytest.raises(RegistryError, match=f"mlflow experiments restore -x {experiment}"):
        versions.open_experiment(settings, registration.NAME)


def test_foreign_registry_keeps_its_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifacts of a user's SQLite registry are stored beside it, whatever the trainer's current folder is."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/other.db"
    settings = Settings.from_env({"VAR_DIR": str(tmp_path / "var"), "MLFLOW_TRACKING_URI": uri})
    experiment = mlflow.get_experiment(versions.open_experiment(settings, registration.NAME))
    assert experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()


def test_invalid_data_or_setting_stops_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained
) -> None:
    """An invalid setting stops the trainer before it writes anything, and a missing data file exits with status 1."""
    with pytest.raises(SettingsError, match="PORT='x'"):
        trainer.train(ModelOptions.read({"PORT": "x", "VAR_DIR": str(tmp_path)}), small_forest())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("VAR_DIR", trained.environ["VAR_DIR"])
    monkeypatch.setenv("COVERTYPE_PATH", str(tmp_path / "none.csv"))
    assert trainer.main() == 1
