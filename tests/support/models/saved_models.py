"""One saved MLflow model of each type that the server supports."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import infer_signature

    from deploy.models.training import package
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deploy.models.training.form import FEATURES
from deploy.models.training.pipeline import build_pipeline, fit
from deploy.models.training.synthetic import generate

REQUIREMENTS = ["scikit-learn"]  # stated, since MLflow would take long to infer them


def save_sklearn(path: Path, estimator: Any, example: Any) -> Path:
    """Save an estimator as cloudpickle, which needs no list of trusted types, and return the path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            estimator,
            path,
            serialization_format="cloudpickle",
            signature=infer_signature(example, estimator.predict(example)),
            input_example=example[:1],
            pip_requirements=REQUIREMENTS,
        )
    return path


def covertype_forest(path: Path) -> Path:
    """Save a small forest in the default model's pipeline, fitted on an array."""
    data = generate(rows=4000)
    forest = RandomForestClassifier(n_estimators=30, random_state=0)
    return save_sklearn(path, build_pipeline(forest).fit(data.x, data.y), pd.DataFrame(data.x, columns=list(FEATURES)))


def trained_covertype(path: Path) -> Path:
    """Save a small forest as `make train` does: with the default model's signature, ranges and compiled form."""
    data = generate(rows=4000)
    fitted = fit(data, RandomForestClassifier(n_estimators=30, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package.save(fitted, data, path)
    return path


def histogram_boosting(path: Path) -> Path:
    """Save a model that uses OpenMP: after predicting, it hangs in forks of the process."""
    data = generate(rows=1500)
    frame = pd.DataFrame(data.x, columns=list(FEATURES))
    return save_sklearn(path, HistGradientBoostingClassifier(max_iter=20).fit(frame, data.y), frame)


def iris_regression(path: Path) -> Path:
    """Save a pipeline for another data set, with float columns."""
    iris = load_iris(as_frame=True)
    return save_sklearn(
        path, make_pipeline(StandardScaler(), LogisticRegression()).fit(iris.data, iris.target), iris.data
    )


def diabetes_regressor(path: Path) -> Path:
    """Save a regressor, whose predictions have no confidence."""
    diabetes = load_diabetes(as_frame=True)
    forest = RandomForestRegressor(n_estimators=10, n_jobs=-1, random_state=0)
    return save_sklearn(path, forest.fit(diabetes.data, diabetes.target), diabetes.data)


def mixed_columns(path: Path) -> Path:
    """Save a classifier with a string column, a numeric column and string labels."""
    frame = pd.DataFrame({"colour": ["red", "blue"] * 20, "size": np.arange(40.0)})
    encoder = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    labels = np.where(frame["size"] > 20, "large", "small")
    return save_sklearn(path, make_pipeline(encoder, LogisticRegression(max_iter=1000)).fit(frame, labels), frame)


def outdated_pipeline(path: Path, *, example: bool = True) -> Path:
    """Save a pipeline whose ColumnTransformer lacks an attribute, as one that an older scikit-learn pickled.

    It loads, and every prediction raises AttributeError.
    """
    pipeline = mixed_columns(path)
    estimator = cloudpickle.loads((pipeline / "model.pkl").read_bytes())
    del estimator.steps[0][1]._transformer_to_input_indices
    (pipeline / "model.pkl").write_bytes(cloudpickle.dumps(estimator))
    (pipeline / "requirements.txt").write_text("scikit-learn==1.3.2\n")
    mlmodel = yaml.safe_load((pipeline / "MLmodel").read_text())
    mlmodel["flavors"]["sklearn"]["sklearn_version"] = "1.3.2"
    mlmodel["flavors"]["python_function"].pop("python_version")  # the tests may run on another one
    if not example:
        del mlmodel["saved_input_example_info"]
    (pipeline / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    return pipeline


class Doubling(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model that doubles its only column."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return model_input["x"].to_numpy() * 2


class Sleeping(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model whose calls take a second each; its prediction is the number of rows in the call."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        import time  # noqa: PLC0415  (this method is unpickled in another process)

        time.sleep(1)
        return np.full(len(model_input), len(model_input))


class Refusing(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model that raises for negative numbers."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        if (model_input["x"] < 0).any():
            raise ValueError("secret of the model")
        return model_input["x"].to_numpy()


class OnlyPositive(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model that raises for 0, the value of an example that is made up from its column."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        if (model_input["x"] <= 0).any():
            raise ValueError("expected a positive number")
        return model_input["x"].to_numpy()


class Crashing(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model whose process is killed by a signal when it predicts more than 1."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        import os  # noqa: PLC0415  (this method is unpickled in another process)

        if (model_input["x"] > 1).any():
            os.abort()
        return model_input["x"].to_numpy()


def save_pyfunc(path: Path, model: mlflow.pyfunc.PythonModel, *, example: bool = True) -> Path:
    """Save a custom model with one float column ``x``, and return the path."""
    import sys  # noqa: PLC0415

    frame = pd.DataFrame({"x": [1.5]})
    # Pickled by value, since the process that loads the model cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path,
            python_model=model,
            signature=infer_signature(frame, frame["x"]),
            input_example=frame if example else None,
            pip_requirements=REQUIREMENTS,
        )
    return path
