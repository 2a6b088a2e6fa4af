"""The fitted pipeline saved as an MLflow model in a folder, and the check of a copy of that folder."""

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
from deploy.models.training.form import (
    DOMAIN_RANGES,
    FEATURES,
    LABEL,
    NUMBER_FEATURES,
    PUBLISHED_RANGES,
    Covertype,
)
from deploy.models.training.pipeline import Fitted
from server.engines.sklearn import SklearnEngine
from server.inference.rows import Rows
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel

# The first row of the workshop that this project comes from; it becomes the model's input example.
EXAMPLE = (2596, 51, 3, 258, 0, 510, 221, 232, 148, 6279, 1, 29)
# skops refuses to load types that it does not know, unless they are named here.
TRUSTED_TYPES = ["sklearn.tree._tree.Tree"]
_REQUIREMENTS = ("scikit-learn", "numpy", "skops")
# Measurements are real numbers, so that a client may send 3000.5; codes are whole numbers.
_COLUMN_TYPES = {name: "double" if i < NUMBER_FEATURES else "long" for i, name in enumerate(FEATURES)}
# Enough rows for a wrong model to differ on some, and few enough to predict at once.
_CHECKED_ROWS = 500


def save(fitted: Fitted, data: Covertype, folder: Path) -> None:
    """Write the MLflow model to ``folder``, which must not exist, with its signature, ranges, example and companion.

    Raises:
        ModelError: the companion does not agree with the pipeline on the held-out rows.
    """
    schema = Schema([ColSpec(column_type, name) for name, column_type in _COLUMN_TYPES.items()])
    mlflow.sklearn.save_model(
        fitted.pipeline,
        str(folder),
        serialization_format="skops",
        skops_trusted_types=TRUSTED_TYPES,
        signature=ModelSignature(inputs=schema, outputs=Schema([ColSpec("long", LABEL)])),
        input_example=_frame(np.array([EXAMPLE])),
        # Without this list MLflow loads the model in another process to find its requirements.
        pip_requirements=[f"{name}=={version(name)}" for name in _REQUIREMENTS],
        metadata={
            "trained_on": data.source,
            "ranges": {name: list(bounds) for name, bounds in DOMAIN_RANGES.items()},
            "observed": observed(data),
        },
    )
    served = MLmodel.read(folder).require_schema()
    held_out = Rows(fitted.x_held, np.empty((len(fitted.x_held), 0), dtype=np.object_))
    companion.add_forest(folder, SklearnEngine(fitted.pipeline, served), served, lambda _: held_out, "held-out rows")


def observed(data: Covertype) -> dict[str, list[int]]:
    """Return the lowest and highest value of each feature, in the published data set and in ``data`` together."""
    lows, highs = data.x.min(axis=0), data.x.max(axis=0)
    return {
        name: [min(low, int(lows[i])), max(high, int(highs[i]))]
        for i, (name, (low, high)) in enumerate(PUBLISHED_RANGES.items())
    }


def find_fault(folder: Path, digest: str, fitted: Fitted) -> str | None:
    """Compare a copy of the model with its digest and with the fitted pipeline; return what is wrong, or None."""
    if (actual_digest := folder_digest(folder)) != digest:
        return f"its digest is {actual_digest[:12]}, expected {digest[:12]}"
    x, y = fitted.x_held[:_CHECKED_ROWS], fitted.y_held[:_CHECKED_ROWS]
    try:
        labels = _predict(folder, x)
    except Exception as error:  # A model may raise anything.
        return f"it fails to predict: {type(error).__name__}: {error}".splitlines()[0]
    if differ := int((labels != fitted.pipeline.predict(x)).sum()):
        return f"{differ} of {len(x)} labels differ from those of the fitted pipeline"
    return _score_fault(labels, y)


def _predict(folder: Path, x: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    model = mlflow.pyfunc.load_model(str(folder))
    with warnings.catch_warnings():
        # MLflow passes a DataFrame, but the pipeline was fitted without names, so that servers need no pandas.
        warnings.filterwarnings("ignore", "X has feature names", UserWarning)
        return np.asarray(model.predict(_frame(x)), dtype=np.int64)


def _score_fault(labels: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> str | None:
    accuracy, majority = float((labels == y).mean()), np.bincount(y).max() / len(y)
    if accuracy > majority:
        return None
    return f"accuracy {accuracy:.3f} on {len(y)} rows, no better than the most common label alone ({majority:.3f})"


def _frame(x: npt.NDArray[np.generic]) -> pd.DataFrame:
    dtypes = {name: "float64" if column_type == "double" else "int64" for name, column_type in _COLUMN_TYPES.items()}
    return pd.DataFrame(x, columns=list(FEATURES)).astype(dtypes)
