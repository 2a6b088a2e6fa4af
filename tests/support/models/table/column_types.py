"""Models with a column signature of other types than double, and a model with code of its own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from tests.support.models.table.case import Estimator, Table, save_estimator

TABLE = Table()


@TABLE.case(
    rows=[
        {"colour": "red", "size": 3.5, "age": 2.0},
        {"colour": "blue", "size": 3.5},
        {"colour": "green", "size": 9.0, "age": None},
    ],
    answers=["cherry", "plum", "melon"],
    bad=[
        {"colour": None, "size": 3.5},
        {"colour": "red", "size": "large"},
        {"colour": 5, "size": [3.5, 4.0]},
        {"size": 3.5},
        {"colour": "violet", "size": 3.5},  # a category that the encoder does not know
    ],
    forms=("dataframe_records", "dataframe_split", "inputs"),  # MLflow's `instances` need values for all columns
    slow=False,
)
def strings_and_optional_columns(path: Path) -> Estimator:
    frame = pd.DataFrame(
        {
            "colour": ["red", "blue", "green", "green"] * 10,
            "size": [3.0, 4.0, 9.0, 8.0] * 10,
            "age": [2.0, None, 1.0, 3.0] * 10,
        }
    )
    steps = make_column_transformer((OneHotEncoder(), ["colour"]), (SimpleImputer(), ["size", "age"]))
    labels = np.array(["cherry", "plum", "melon", "melon"] * 10)
    pipeline = make_pipeline(steps, RandomForestClassifier(10, random_state=0)).fit(frame, labels)
    return save_estimator(path, pipeline, frame, input_example=frame[:1])


@TABLE.case(
    rows=[{"text": "a good film"}, {"text": "such a bad film"}, {"text": "no idea"}],
    answers=["yes", "no", "unsure"],
    bad=[{"text": None}, {"text": ["good", "bad"]}, {}],
)
def text_column(path: Path) -> Estimator:
    frame = pd.DataFrame({"text": ["good", "good film", "bad", "bad film", "idea", "an idea"] * 4})
    vectors = ColumnTransformer([("words", TfidfVectorizer(), "text")])
    labels = np.array(["yes", "yes", "no", "no", "unsure", "unsure"] * 4)
    return save_estimator(path, make_pipeline(vectors, LogisticRegression()).fit(frame, labels), frame)


@TABLE.case(
    rows=[
        {"smoker": True, "sporty": False},
        {"smoker": False, "sporty": True},
        {"smoker": True, "sporty": True},
    ],
    answers=["high", "low", "middle"],
    bad=[{"smoker": "yes", "sporty": True}, {"smoker": None, "sporty": True}, {"smoker": True}],
)
def boolean_columns(path: Path) -> Estimator:
    frame = pd.DataFrame({"smoker": [True, False, True, False] * 5, "sporty": [False, True, True, False] * 5})
    labels = np.array(["high", "low", "middle", "middle"] * 5)
    return save_estimator(path, DecisionTreeClassifier().fit(frame, labels), frame)


@TABLE.case(
    rows=[{"year": 1990, "count": 5}, {"year": 2000, "count": 5.0}, {"year": 2010, "count": 5}],
    answers=[1990, 2000, 2010],
    bad=[{"year": "last", "count": 5}, {"year": None, "count": 5}, {"year": 2**31, "count": 5}],
)
def integer_columns(path: Path) -> Estimator:
    """Save a model with a column of 32 and one of 64 bits."""
    frame = pd.DataFrame({"year": np.array([1990, 2000, 2010] * 5, np.int32), "count": np.arange(15)})
    return save_estimator(path, DecisionTreeClassifier().fit(frame, frame["year"]), frame)


@TABLE.case(
    rows=[{"height": 0.1}, {"height": 0.5}, {"height": 0.9}],
    answers=["low", "middle", "high"],
    bad=[{"height": "tall"}, {"height": None}, {"height": 1e39}],
)
def float32_column(path: Path) -> Estimator:
    frame = pd.DataFrame({"height": np.array([0.1, 0.5, 0.9] * 5, np.float32)})
    return save_estimator(path, DecisionTreeClassifier().fit(frame, ["low", "middle", "high"] * 5), frame)


def hour(frame: Any) -> Any:
    """Return the hours of a DataFrame of dates."""
    return frame.apply(lambda column: column.dt.hour).to_numpy()


@TABLE.case(
    rows=[
        {"when": "2024-01-01T03:00:00", "amount": 5.0},
        {"when": "2024-01-02T12:30:00", "amount": 5.0},
        {"when": "2024-02-29T22:00:00", "amount": 5.0},
    ],
    answers=["night", "day", "evening"],
    bad=[
        {"when": "2023-02-29T12:00:00", "amount": 5.0},  # not a leap year
        {"when": "soon", "amount": 5.0},
        {"when": None, "amount": 5.0},
        {"when": ["2024-01-01", "2024-01-02"], "amount": 5.0},
        {"amount": 5.0},
    ],
    slow=False,
)
def dates(path: Path) -> Estimator:
    import cloudpickle  # noqa: PLC0415

    # The function is pickled by value, because the process that loads the model cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=96, freq="h"), "amount": np.arange(96.0)})
    labels = np.array(["night"] * 8 + ["day"] * 10 + ["evening"] * 6)[frame["when"].dt.hour]
    steps = ColumnTransformer([("hour", FunctionTransformer(hour), ["when"])])
    return save_estimator(path, make_pipeline(steps, DecisionTreeClassifier()).fit(frame, labels), frame)


_STEP = """
from sklearn.base import BaseEstimator, TransformerMixin


class Rounding(TransformerMixin, BaseEstimator):
    def fit(self, x, y=None):
        self.is_fitted_ = True
        return self

    def transform(self, x):
        return x.round()
"""


@TABLE.case(
    rows=[{"grade": 1.2}, {"grade": 1.9}, {"grade": 3.4}],
    answers=["good", "fair", "poor"],
    bad=[{"grade": "A"}, {"grade": None}],
)
def code_of_its_own(path: Path) -> Estimator:
    """Save a pipeline with a step from a module that is stored beside the model (``code_paths``)."""
    module = path.with_name("code") / "forkcast_table_step.py"
    module.parent.mkdir()
    module.write_text(_STEP)
    sys.path.insert(0, str(module.parent))
    try:
        step = importlib.import_module(module.stem).Rounding()
    finally:
        sys.path.remove(str(module.parent))
    frame = pd.DataFrame({"grade": [1.0, 2.0, 3.0] * 5})
    pipeline = make_pipeline(step, DecisionTreeClassifier()).fit(frame, ["good", "fair", "poor"] * 5)
    return save_estimator(path, pipeline, frame, code_paths=[str(module)])
