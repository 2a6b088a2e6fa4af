"""The pipeline to train: codes are one-hot encoded, numbers pass unchanged, and a forest predicts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from deploy.models.training.form import FEATURES, NUMBER_FEATURES, PUBLISHED_RANGES, Covertype
from server.system.cgroup import available_cpus

HELD_OUT = 0.2


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted pipeline, the held-out rows (m x 12, m labels), and its scores on them.

    ``nodes`` is the total of all trees; ``seconds`` is the time that fitting took.
    """

    pipeline: Pipeline
    x_held: npt.NDArray[np.float64]
    y_held: npt.NDArray[np.int64]
    accuracy: float
    macro_f1: float
    nodes: int
    seconds: float


def covertype_forest() -> RandomForestClassifier:
    """Return the default forest: accuracy 0.916 on held-out rows, with fewer than 500,000 nodes to fit CPU caches."""
    return RandomForestClassifier(n_estimators=30, max_features=0.6, max_leaf_nodes=8000, random_state=0)


def large_forest() -> RandomForestClassifier:
    """Return a forest of common settings, about two million nodes on 100,000 rows, to compare engines with."""
    return RandomForestClassifier(n_estimators=100, min_samples_leaf=2, random_state=0)


FORESTS = {"default": covertype_forest, "large": large_forest}


def build_pipeline(forest: BaseEstimator) -> Pipeline:
    """Return an unfitted pipeline that one-hot encodes the codes before ``forest``.

    Columns are selected by position, so that predicting needs no pandas.
    """
    codes = [np.arange(low, high + 1) for low, high in (PUBLISHED_RANGES[name] for name in FEATURES[NUMBER_FEATURES:])]
    one_hot = OneHotEncoder(categories=codes, handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer(
        [
            ("numbers", "passthrough", list(range(NUMBER_FEATURES))),
            ("codes", one_hot, list(range(NUMBER_FEATURES, len(FEATURES)))),
        ]
    )
    return Pipeline([("columns", columns), ("forest", forest)])


def fit(data: Covertype, forest: BaseEstimator) -> Fitted:
    """Fit on four fifths of the rows, and score on the held-out fifth.

    The split is stratified by class, and the same for the same rows.
    """
    x, x_held, y, y_held = train_test_split(data.x, data.y, test_size=HELD_OUT, stratify=data.y, random_state=0)
    pipeline = build_pipeline(forest).set_params(forest__n_jobs=available_cpus())
    started = time.perf_counter()
    pipeline.fit(x, y)
    seconds = time.perf_counter() - started
    labels = pipeline.predict(x_held)
    # The setting is saved with the model, and each worker of a server predicts in one thread.
    pipeline.set_params(forest__n_jobs=1)
    return Fitted(
        pipeline=pipeline,
        x_held=x_held,
        y_held=y_held,
        accuracy=float(accuracy_score(y_held, labels)),
        macro_f1=float(f1_score(y_held, labels, average="macro")),
        nodes=sum(tree.tree_.node_count for tree in forest.estimators_),
        seconds=seconds,
    )
