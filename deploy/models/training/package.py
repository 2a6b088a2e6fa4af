"""The fitted pipeline as an MLflow model in a folder, and the check that a copy of it is still that model."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

from deploy.models.compile import companion
from deploy.models.training.form import FEATURES, LABEL, PUBLISHED_RANGES, Covertype
from deploy.models.training.pipeline import Fitted
from server.engines.sklearn import SklearnEngine
from server.inference.rows import Rows
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel

# The workshop's first row: what the model's users see as its example.
EXAMPLE = (2596, 51, 3, 258, 0, 510, 221, 232, 148, 6279, 1, 29)
# skops loads no type that it does not know unless it is named here.
TRUSTED_TYPES = ["sklearn.tree._tree.Tree"]
_REQUIREMENTS = ("scikit-learn", "numpy", "skops")
# Rows that a check predicts: enough to notice another model, few enough to take no time.
_CHECKED_ROWS = 500


def save(fitted: Fitted, data: Covertype, folder: Path) -> None:
    """Write the MLflow model to ``folder``, which must not exist: schema, ranges and example are part of it.

    So is its compiled form, checked on the rows that were held out.

    Raises:
        ModelError: the compiled form does not agree with the model.
    """
    schema = Schema([ColSpec("long", name) for name in FEATURES])
    mlflow.sklearn.save_model(
        fitted.pipeline,
        str(folder),
        serialization_format="skops",
        skops_trusted_types=TRUSTED_TYPES,
        signature=ModelSignature(inputs=schema, outputs=Schema([ColSpec("long", LABEL)])),
        input_example=_frame(np.array([EXAMPLE])),
        # Given, because MLflow would find them by loading the model in a process of its own.
        pip_requirements=[f"{name}=={version(name)}" for name in _REQUIREMENTS],
        metadata={"trained_on": data.source, "ranges": ranges(data)},
    )
    served = MLmodel.read(folder).schema
    held = Rows(fitted.x_held, np.empty((len(fitted.x_held), 0), dtype=np.object_))
    companion.add_forest(folder, SklearnEngine(fitted.pipeline, served), served, lambda _: held, "held-out rows")


def ranges(data: Covertype) -> dict[str, list[int]]:
    """The lowest and highest value of each feature, published or seen in ``data``, whichever is further out."""
    lows, highs = data.x.min(axis=0), data.x.max(axis=0)
    return {
        name: [min(low, int(lows[i])), max(high, int(highs[i]))]
        for i, (name, (low, high)) in enumerate(PUBLISHED_RANGES.items())
    }


def fault_of(folder: Path, digest: str, fitted: Fitted) -> str | None:
    """What is wrong with a copy of the model in ``folder``, in a few words; None where nothing is."""
    if (found := folder_digest(folder)) != digest:
        return f"its digest is {found[:12]}, expected {digest[:12]}"
    x, y = fitted.x_held[:_CHECKED_ROWS], fitted.y_held[:_CHECKED_ROWS]
    try:
        labels = _predicted(folder, x)
    except Exception as error:  # whatever a model raises, it does not serve
        return f"it does not predict: {type(error).__name__}: {error}".splitlines()[0]
    if differ := int((labels != fitted.pipeline.predict(x)).sum()):
        return f"{differ} of {len(x)} labels differ from those of the fitted pipeline"
    return _fault_of_score(labels, y)


def _predicted(folder: Path, x: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    model = mlflow.pyfunc.load_model(str(folder))
    with warnings.catch_warnings():
        # MLflow hands on a DataFrame; the pipeline was fitted without names, so that servers need none.
        warnings.filterwarnings("ignore", "X has feature names", UserWarning)
        return np.asarray(model.predict(_frame(x)), dtype=np.int64)


def _fault_of_score(labels: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> str | None:
    accuracy, majority = float((labels == y).mean()), np.bincount(y).max() / len(y)
    if accuracy > majority:
        return None
    return f"accuracy {accuracy:.3f} on {len(y)} rows, no better than always the commonest label ({majority:.3f})"


def _frame(x: npt.NDArray[np.generic]) -> pd.DataFrame:
    return pd.DataFrame(x.astype(np.int64), columns=list(FEATURES))
