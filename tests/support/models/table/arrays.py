"""Estimators whose signature is one tensor: logged with infer_signature on an array, or by autolog."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from tests.support.models.table.case import REQUIREMENTS, Estimator, Table, save_estimator
from tests.support.models.table.classifiers import FLOWERS, IRIS, NAMES, NUMBERS, SPECIES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    import mlflow.models
    import mlflow.sklearn

X = IRIS.to_numpy()
LISTS = [list(flower.values()) for flower in FLOWERS]
FOUR = ("x0", "x1", "x2", "x3")
ARRAY_FORMS = ("inputs", "instances")

TEXT_AS_NUMBER = [5.1, 3.5, "long", 0.2]
NULL = [5.1, None, 1.4, 0.2]
SHORT = [5.1, 3.5, 1.4]
LONG = [5.1, 3.5, 1.4, 0.2, 9.9]
NESTED = [[5.1], [3.5], [1.4], [0.2]]

TABLE = Table()


@TABLE.case(LISTS, NAMES, [TEXT_AS_NUMBER, SHORT, LONG, NESTED, 5.1], names=FOUR, forms=ARRAY_FORMS, slow=False)
def array_of_doubles(path: Path) -> Estimator:
    """Save a model as tutorials do: fitted on NumPy arrays, with ``infer_signature(X, y)``."""
    return save_estimator(path, RandomForestClassifier(10, random_state=0).fit(X, SPECIES), X)


@TABLE.case(
    rows=[[1, 7], [2, 7], [3, 7]],
    answers=[10, 20, 30],
    converted=[[1.5, 7]],
    bad=[["one", 7], [None, 7], [1], [[1, 7]]],
    names=("x0", "x1"),
    forms=ARRAY_FORMS,
)
def array_of_integers(path: Path) -> Estimator:
    x = np.array([[a, b] for a in (1, 2, 3) for b in (6, 7, 8)])
    return save_estimator(path, DecisionTreeClassifier().fit(x, x[:, 0] * 10), x)


@TABLE.case(
    rows=[[0.5, 1.0], [1.5, 1.0], [2.5, 1.0]],
    answers=[1.0, 3.0, 5.0],
    bad=[["half", 1.0], [None, 1.0], [1e39, 1.0], [0.5]],
    names=("x0", "x1"),
    forms=ARRAY_FORMS,
)
def array_of_floats(path: Path) -> Estimator:
    x = np.array([[0.5, 0.0], [1.0, 1.0], [2.0, 0.0], [3.0, 1.0]], np.float32)
    return save_estimator(path, LinearRegression().fit(x, 2 * x[:, 0]), x)


@TABLE.case(
    LISTS,
    [["setosa", "short"], ["versicolor", "short"], ["virginica", "long"]],
    [TEXT_AS_NUMBER, SHORT],
    names=FOUR,
    forms=ARRAY_FORMS,
)
def array_with_several_labels(path: Path) -> Estimator:
    labels = np.column_stack([SPECIES, np.where(X[:, 0] > 6.5, "long", "short")])
    return save_estimator(path, MultiOutputClassifier(DecisionTreeClassifier(max_depth=3)).fit(X, labels), X)


@TABLE.case(
    rows=["a good film", "such a bad film", "no idea"],
    answers=["yes", "no", "unsure"],
    converted=[5],
    bad=[["good", "bad"]],
    names=("x0",),
    forms=ARRAY_FORMS,
    slow=False,
)
def array_of_texts(path: Path) -> Estimator:
    """Save a text classifier that takes an array of strings."""
    texts = np.array(["good", "good film", "bad", "bad film", "idea", "an idea"] * 4)
    labels = np.array(["yes", "yes", "no", "no", "unsure", "unsure"] * 4)
    return save_estimator(path, make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels), texts)


@TABLE.case(LISTS, [0, 1, 2], [TEXT_AS_NUMBER, SHORT, LONG], names=FOUR, forms=ARRAY_FORMS)
def autologged_array(path: Path) -> Estimator:
    """Save a model by ``mlflow.sklearn.autolog()``, with a registry of its own."""
    folder = path.with_name("registry")
    with pytest.MonkeyPatch.context() as patch:
        # A database of MLflow takes long to create, and the requirements long to infer.
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setattr(mlflow.models, "infer_pip_requirements", lambda *_, **__: REQUIREMENTS)
        previous = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(folder.as_uri())
        try:
            mlflow.sklearn.autolog(log_input_examples=True, serialization_format="cloudpickle", silent=True)
            with mlflow.start_run() as run:
                forest = RandomForestClassifier(10, random_state=0).fit(X, NUMBERS)
            (logged,) = mlflow.search_logged_models([run.info.experiment_id], output_format="list")
        finally:
            mlflow.sklearn.autolog(disable=True, silent=True)
            mlflow.set_tracking_uri(previous)
    shutil.copytree(logged.artifact_location.removeprefix("file://"), path)
    return Estimator(forest, X)
