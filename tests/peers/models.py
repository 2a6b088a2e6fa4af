"""The models of the comparisons: one with integers, one with columns of every type, one with several outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from deploy.models.training.form import FEATURES
from deploy.models.training.pipeline import build_pipeline
from deploy.models.training.synthetic import generate
from tests.support.models.saved_models import save_sklearn

Row = dict[str, Any]

# A valid row of each model.
COVERTYPE: Row = dict(zip(FEATURES, (2596, 51, 3, 258, 0, 510, 221, 232, 148, 6279, 1, 29), strict=True))
MIXED: Row = {
    "colour": "red", "count": 40, "total": 7_000_000_000, "height": 0.5, "weight": 61.5, "fragile": True, "age": 30,
}  # fmt: skip
SEVERAL: Row = {"x": 0.25, "y": 0.5, "z": 0.75}


def covertype(path: Path) -> Path:
    """Save a model with twelve columns of type long and the labels 1 to 7."""
    data = generate(rows=1500)
    frame = pd.DataFrame(data.x.astype(np.int64), columns=list(FEATURES))
    forest = RandomForestClassifier(n_estimators=10, random_state=0)
    return save_sklearn(path, build_pipeline(forest).fit(data.x, data.y), frame)


class Echo(BaseEstimator):  # type: ignore[misc]
    """An estimator whose label is the text of the row that it got, column by column, with ``-`` for a missing value."""

    def fit(self, x: pd.DataFrame, _y: object = None) -> Echo:
        self.columns_ = list(x.columns)
        return self

    def predict(self, x: pd.DataFrame) -> Any:
        def shown(value: Any) -> str:
            if value is None or value != value:  # noqa: PLR0124  (NaN)
                return "-"
            return str(value.item() if hasattr(value, "item") else value)

        columns = [x.get(name, [None] * len(x)) for name in self.columns_]
        return np.array(["|".join(map(shown, row)) for row in zip(*columns, strict=True)])


def mixed(path: Path) -> Path:
    """Save a model with a column of every supported type, one of them optional, and strings as labels."""
    frame = pd.DataFrame([MIXED, {**MIXED, "age": None}]).astype({"count": np.int32, "height": np.float32})
    # Pickle the class by value, because the process that loads it cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return save_sklearn(path, Echo().fit(frame), frame)


def several(path: Path) -> Path:
    """Save a model with three columns of floats and two outputs."""
    frame = pd.DataFrame(np.random.default_rng(0).uniform(0, 1, (300, 3)), columns=list(SEVERAL))
    outputs = np.column_stack([frame["x"] + frame["y"], frame["y"] * frame["z"]])
    return save_sklearn(path, RandomForestRegressor(n_estimators=10, random_state=0).fit(frame, outputs), frame)


SAVE: Mapping[str, Callable[[Path], Path]] = {"covertype": covertype, "mixed": mixed, "several": several}
