"""Models of every kind that is served, saved as MLflow saves them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own imports warn
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deploy.models.training.form import FEATURES
from deploy.models.training.pipeline import build_pipeline
from deploy.models.training.synthetic import generate

REQUIREMENTS = ["scikit-learn"]  # given, so that MLflow does not go and look for them


def save_sklearn(path: Path, estimator: Any, example: pd.DataFrame) -> Path:
    """Save as cloudpickle, which needs no list of trusted types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            estimator,
            path,
            serialization_format="cloudpickle",
            signature=infer_signature(example, estimator.predict(example)),
            input_example=example.iloc[:1],
            pip_requirements=REQUIREMENTS,
        )
    return path


def covertype_forest(path: Path) -> Path:
    """The default model's own pipeline, fitted on an array, smaller."""
    data = generate(rows=4000)
    forest = RandomForestClassifier(n_estimators=30, random_state=0)
    return save_sklearn(path, build_pipeline(forest).fit(data.x, data.y), pd.DataFrame(data.x, columns=list(FEATURES)))


def histogram_boosting(path: Path) -> Path:
    """OpenMP inside: it hangs in a fork of a process in which it has predicted."""
    data = generate(rows=1500)
    frame = pd.DataFrame(data.x, columns=list(FEATURES))
    return save_sklearn(path, HistGradientBoostingClassifier(max_iter=20).fit(frame, data.y), frame)


def iris_regression(path: Path) -> Path:
    """A pipeline on another data set, with float columns."""
    iris = load_iris(as_frame=True)
    return save_sklearn(
        path, make_pipeline(StandardScaler(), LogisticRegression()).fit(iris.data, iris.target), iris.data
    )


def diabetes_regressor(path: Path) -> Path:
    """No classes, so no confidence."""
    diabetes = load_diabetes(as_frame=True)
    forest = RandomForestRegressor(n_estimators=10, n_jobs=-1, random_state=0)
    return save_sklearn(path, forest.fit(diabetes.data, diabetes.target), diabetes.data)


def mixed_columns(path: Path) -> Path:
    """A string column beside numbers, and string labels."""
    frame = pd.DataFrame({"colour": ["red", "blue"] * 20, "size": np.arange(40.0)})
    encoder = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    labels = np.where(frame["size"] > 20, "large", "small")
    return save_sklearn(path, make_pipeline(encoder, LogisticRegression(max_iter=1000)).fit(frame, labels), frame)


class Doubling(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model: twice its one column."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return model_input["x"].to_numpy() * 2


class Sleeping(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model that takes a second for each call, however many rows."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        import time  # noqa: PLC0415  (unpickled in another process)

        time.sleep(1)
        return np.full(len(model_input), len(model_input))


class Refusing(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model that raises for negative numbers."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        if (model_input["x"] < 0).any():
            raise ValueError("secret of the model")
        return model_input["x"].to_numpy()


def save_pyfunc(path: Path, model: mlflow.pyfunc.PythonModel) -> Path:
    """Save a custom model of one float column ``x``."""
    import sys  # noqa: PLC0415

    import cloudpickle  # noqa: PLC0415

    frame = pd.DataFrame({"x": [1.5]})
    # By value: the process that loads it has no tests to import.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path,
            python_model=model,
            signature=infer_signature(frame, frame["x"]),
            input_example=frame,
            pip_requirements=REQUIREMENTS,
        )
    return path
