"""Classifiers and clusterings with a column signature: species of iris by four measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from tests.support.models.table.case import Estimator, Table, save_estimator
from tests.support.models.table.compiled import add_forest

IRIS: pd.DataFrame = load_iris(as_frame=True).data
NUMBERS = load_iris().target
SPECIES = load_iris().target_names[NUMBERS]

FLOWERS = [
    dict(zip(IRIS.columns, measurements, strict=True))
    for measurements in ([5.1, 3.5, 1.4, 0.2], [6.4, 2.9, 4.3, 1.3], [6.9, 3.1, 5.9, 2.3])
]
NAMES = ["setosa", "versicolor", "virginica"]
TEXT_AS_NUMBER = {**FLOWERS[0], "petal length (cm)": "long"}
NULL = {**FLOWERS[1], "sepal width (cm)": None}
MISSING = dict(list(FLOWERS[2].items())[:3])
LIST_AS_NUMBER = {**FLOWERS[0], "petal width (cm)": [0.2, 0.3]}

TABLE = Table()


@TABLE.case(FLOWERS, NAMES, [TEXT_AS_NUMBER, NULL, MISSING], engine="forest")
def random_forest(path: Path) -> Estimator:
    """Save a forest with its compiled form."""
    forest = save_estimator(path, RandomForestClassifier(10, random_state=0).fit(IRIS, SPECIES), IRIS)
    return add_forest(path, forest)


@TABLE.case(FLOWERS, [0, 1, 2], [MISSING, LIST_AS_NUMBER], engine="forest")
def decision_tree(path: Path) -> Estimator:
    """Save a tree with its compiled form."""
    tree = save_estimator(path, DecisionTreeClassifier(max_depth=4, random_state=0).fit(IRIS, NUMBERS), IRIS)
    return add_forest(path, tree)


@TABLE.case(FLOWERS, NAMES, [TEXT_AS_NUMBER])
def extra_trees(path: Path) -> Estimator:
    return save_estimator(path, ExtraTreesClassifier(10, random_state=0, n_jobs=-1).fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, NAMES, [NULL])
def gradient_boosting(path: Path) -> Estimator:
    return save_estimator(path, GradientBoostingClassifier(n_estimators=10, random_state=0).fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, [0, 1, 2], [TEXT_AS_NUMBER, NULL], slow=False)
def histogram_boosting(path: Path) -> Estimator:
    """Save a model that uses OpenMP: in a master, a prediction before the fork would make its workers hang."""
    return save_estimator(path, HistGradientBoostingClassifier(max_iter=10).fit(IRIS, NUMBERS), IRIS)


@TABLE.case(FLOWERS, [0, 1, 2], [MISSING])
def ada_boost(path: Path) -> Estimator:
    return save_estimator(path, AdaBoostClassifier(n_estimators=10, random_state=0).fit(IRIS, NUMBERS), IRIS)


@TABLE.case(FLOWERS, NAMES, [TEXT_AS_NUMBER])
def voting(path: Path) -> Estimator:
    members = [("bayes", GaussianNB()), ("tree", DecisionTreeClassifier(random_state=0))]
    return save_estimator(path, VotingClassifier(members, voting="soft").fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, NAMES, [LIST_AS_NUMBER])
def stacking(path: Path) -> Estimator:
    members = [("bayes", GaussianNB()), ("tree", DecisionTreeClassifier(random_state=0))]
    return save_estimator(path, StackingClassifier(members, LogisticRegression()).fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, [0, 1, 2], [NULL])
def bagging(path: Path) -> Estimator:
    return save_estimator(path, BaggingClassifier(n_estimators=5, random_state=0).fit(IRIS, NUMBERS), IRIS)


@TABLE.case(FLOWERS, NAMES, [TEXT_AS_NUMBER, MISSING])
def logistic_regression_in_pickle(path: Path) -> Estimator:
    """Save a pipeline in the format that MLflow wrote for years."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES)
    return save_estimator(path, pipeline, IRIS, serialization_format="pickle")


@TABLE.case(FLOWERS, [0, 1, 2], [NULL])
def sgd(path: Path) -> Estimator:
    """Save a linear classifier without probabilities."""
    pipeline = make_pipeline(StandardScaler(), SGDClassifier(random_state=0))
    return save_estimator(path, pipeline.fit(IRIS, NUMBERS), IRIS)


@TABLE.case(FLOWERS, [0, 1, 2], [TEXT_AS_NUMBER])
def support_vectors(path: Path) -> Estimator:
    """Save a classifier without probabilities."""
    return save_estimator(path, SVC().fit(IRIS, NUMBERS), IRIS)


@TABLE.case(FLOWERS, NAMES, [TEXT_AS_NUMBER])
def support_vectors_with_probabilities(path: Path) -> Estimator:
    return save_estimator(path, SVC(probability=True, random_state=0).fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, NAMES, [MISSING])
def nearest_neighbours(path: Path) -> Estimator:
    return save_estimator(path, KNeighborsClassifier(3).fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, [0, 1, 2], [NULL])
def naive_bayes_in_skops(path: Path) -> Estimator:
    """Save a model in MLflow's default format, which needs no list of trusted types for it."""
    return save_estimator(path, GaussianNB().fit(IRIS, NUMBERS), IRIS, serialization_format="skops")


@TABLE.case(FLOWERS, [1, 0, 2], [TEXT_AS_NUMBER, NULL])
def clusters(path: Path) -> Estimator:
    """Save a clustering, whose answers are the numbers of the nearest centres."""
    return save_estimator(path, KMeans(3, n_init=1, random_state=0).fit(IRIS), IRIS)


@TABLE.case(FLOWERS, NAMES, [MISSING])
def principal_components(path: Path) -> Estimator:
    pipeline = make_pipeline(StandardScaler(), PCA(3), LogisticRegression())
    return save_estimator(path, pipeline.fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, NAMES, [TEXT_AS_NUMBER])
def grid_search(path: Path) -> Estimator:
    search = GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [3, 4]}, cv=2)
    return save_estimator(path, search.fit(IRIS, SPECIES), IRIS)


@TABLE.case(FLOWERS, NAMES, [NULL])
def calibrated(path: Path) -> Estimator:
    return save_estimator(path, CalibratedClassifierCV(GaussianNB(), cv=2).fit(IRIS, SPECIES), IRIS)


@TABLE.case(
    FLOWERS,
    [["setosa", "short"], ["versicolor", "short"], ["virginica", "long"]],
    [TEXT_AS_NUMBER, MISSING],
    slow=False,
)
def several_labels(path: Path) -> Estimator:
    """Save a classifier of two outputs, each with classes of its own."""
    length = np.where(IRIS["sepal length (cm)"] > 6.5, "long", "short")
    trees = MultiOutputClassifier(DecisionTreeClassifier(max_depth=3, random_state=0))
    return save_estimator(path, trees.fit(IRIS, np.column_stack([SPECIES, length])), IRIS)


@TABLE.case(FLOWERS, [[0, 1], [1, 0], [1, 1]], [NULL])
def tags(path: Path) -> Estimator:
    """Save a multilabel classifier: a column of 0 and 1 for each tag."""
    tagged = np.column_stack([NUMBERS > 0, NUMBERS != 1]).astype(int)
    return save_estimator(path, KNeighborsClassifier(3).fit(IRIS, tagged), IRIS)


@TABLE.case(FLOWERS, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [TEXT_AS_NUMBER, NULL], engine="pyfunc")
def logged_with_predict_proba(path: Path) -> Estimator:
    """Save a model whose answers are the probabilities, because it was logged so."""
    tree = DecisionTreeClassifier(random_state=0).fit(IRIS, SPECIES)
    return save_estimator(path, tree, IRIS, pyfunc_predict_fn="predict_proba")
