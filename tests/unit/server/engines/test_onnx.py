"""Tests of the ``onnx`` engine and its companion: skl2onnx converts, ONNX Runtime predicts the same as scikit-learn."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from deploy.models.compile import companion
from deploy.models.compile.features import NotCompilable
from server.engines.loading import load_engine
from server.engines.sklearn import SklearnEngine
from server.errors import CompanionRefused
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel
from server.settings import ROOT
from tests.support.models.forests import double_columns, numeric_rows, rows_of, schema_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the other packages that are installed
    import mlflow.sklearn
    from mlflow.models import infer_signature

# Warnings of skl2onnx and MLflow about packages that they import.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3))
TYPES = {"depth": "double", "zone (1-5)": "long", "soil": "string"}
FRAME = pd.DataFrame(
    {"depth": X[:, 0], "zone (1-5)": RNG.integers(0, 5, 300), "soil": RNG.choice(["clay", "peat"], 300)}
)
LABELS = np.where(X[:, 0] + (FRAME["soil"] == "clay") > 0.5, "wet", "dry")
NUMERIC_MODELS = {
    "classifier": make_pipeline(StandardScaler(), LogisticRegression()).fit(X, LABELS),
    "whole labels": LogisticRegression().fit(X, (X[:, 0] > 0) * 3 - (X[:, 1] > 0)),
    "regressor": make_pipeline(StandardScaler(), LinearRegression()).fit(X, X @ [1.0, -2.0, 0.5]),
    "forest": RandomForestClassifier(5, random_state=0).fit(X, LABELS),
}


def named_columns_pipeline() -> Any:
    """Return a pipeline that selects columns by name, including a string column."""
    steps = make_column_transformer((StandardScaler(), ["depth"]), (OneHotEncoder(), ["soil", "zone (1-5)"]))
    return make_pipeline(steps, LogisticRegression()).fit(FRAME, LABELS)


def save(folder: Path, estimator: Any, x: Any) -> MLmodel:
    mlflow.sklearn.save_model(
        estimator,
        str(folder),
        serialization_format="cloudpickle",
        signature=infer_signature(pd.DataFrame(x).rename(columns=str), LABELS),
        pip_requirements=["scikit-learn"],
    )
    return MLmodel.read(folder)


def add_companion(folder: Path, estimator: Any, schema: InputSchema, rows: Rows) -> MLmodel:
    companion.add_onnx(folder, SklearnEngine(estimator, schema), schema, lambda _: rows, "its own rows")
    return MLmodel.read(folder)


def assert_same(actual: Prediction, expected: Prediction) -> None:
    if expected.confidences is None:
        assert actual.confidences is None
        assert actual.labels == pytest.approx(expected.labels, abs=1e-6)
    else:
        assert actual.labels == expected.labels
        assert actual.confidences == pytest.approx(expected.confidences, abs=1e-6)


@pytest.mark.parametrize("name", NUMERIC_MODELS)
def test_numeric_columns_match_scikit_learn(tmp_path: Path, name: str) -> None:
    """A converted pipeline with number columns predicts the same as scikit-learn, for a batch and for one row."""
    estimator = NUMERIC_MODELS[name]
    mlmodel = add_companion(
        tmp_path / "m", estimator, save(tmp_path / "m", estimator, X).require_schema(), numeric_rows(X)
    )
    engine, reference = load_engine(mlmodel, "onnx"), load_engine(mlmodel, "sklearn")
    assert (engine.name, load_engine(mlmodel, "auto").name) == ("onnx", "onnx")
    for rows in (numeric_rows(X), numeric_rows(X[7:8])):
        assert_same(engine.predict(rows), reference.predict(rows))


def test_named_columns_match_scikit_learn(tmp_path: Path) -> None:
    """A converted pipeline with named columns of three types predicts the same as scikit-learn."""
    estimator = named_columns_pipeline()
    rows = rows_of(schema_of(TYPES), FRAME)
    mlmodel = add_companion(tmp_path / "m", estimator, save(tmp_path / "m", estimator, FRAME).require_schema(), rows)
    assert_same(load_engine(mlmodel, "onnx").predict(rows), load_engine(mlmodel, "sklearn").predict(rows))


def test_onnx_engine_predicts_in_forked_children(tmp_path: Path) -> None:
    """An engine that is created before a fork predicts in the children, without a prediction in the parent."""
    mlmodel = add_companion(
        tmp_path / "m",
        NUMERIC_MODELS["classifier"],
        save(tmp_path / "m", NUMERIC_MODELS["classifier"], X).require_schema(),
        numeric_rows(X),
    )
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from server.engines.loading import load_engine\n"
        "from server.model_store.mlmodel import MLmodel\n"
        "import numpy as np\n"
        "from tests.support.models.forests import numeric_rows\n"
        "rows = numeric_rows(np.random.default_rng(0).normal(size=(300, 3)))\n"
        "engine = load_engine(MLmodel.read(Path(sys.argv[1])), 'onnx')\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os._exit(0 if len(engine.predict(rows).labels) == 300 else 1)\n"
        "sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(3)))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(mlmodel.folder)]
    process = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("estimator", "schema", "reason"),
    [
        (
            NUMERIC_MODELS["classifier"],
            schema_of(dict.fromkeys(("x0", "x1", "x2"), "double"), "x1"),
            "'x1' is optional",
        ),
        (LinearSVC().fit(X, LABELS), double_columns(3), "LinearSVC has no probabilities"),
    ],
)
def test_unconvertible_model_is_refused_without_writing(
    tmp_path: Path, estimator: Any, schema: InputSchema, reason: str
) -> None:
    """A model that cannot be converted or checked is refused with the reason, and its folder is unchanged."""
    folder = save(tmp_path / "m", estimator, X).folder
    initial = folder_digest(folder)
    with pytest.raises(NotCompilable, match=reason):
        add_companion(folder, estimator, schema, numeric_rows(X))
    assert folder_digest(folder) == initial


def test_missing_onnx_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading or adding a companion without the optional packages raises an error that names what is missing."""
    estimator = NUMERIC_MODELS["classifier"]
    mlmodel = save(tmp_path / "m", estimator, X)
    add_companion(mlmodel.folder, estimator, mlmodel.require_schema(), numeric_rows(X))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    monkeypatch.delitem(sys.modules, "deploy.models.compile.onnx_conversion")
    compiled = MLmodel.read(mlmodel.folder)
    assert load_engine(compiled, "auto").name == "sklearn"
    with pytest.raises(CompanionRefused, match="needs the package onnxruntime"):
        load_engine(compiled, "onnx")
    with pytest.raises(NotCompilable, match=r"make \.venv/bin/\.onnx"):
        add_companion(mlmodel.folder, estimator, mlmodel.require_schema(), numeric_rows(X))


def test_damaged_onnx_file_is_refused(tmp_path: Path) -> None:
    """A damaged ONNX file is refused, and the model is served by another engine."""
    estimator = NUMERIC_MODELS["classifier"]
    mlmodel = add_companion(
        tmp_path / "m", estimator, save(tmp_path / "m", estimator, X).require_schema(), numeric_rows(X)
    )
    (mlmodel.folder / "onnx/model.onnx").write_bytes(b"not ONNX")
    with pytest.raises(CompanionRefused, match="is missing or damaged"):
        load_engine(mlmodel, "onnx")
    assert load_engine(mlmodel, "auto").name == "sklearn"
