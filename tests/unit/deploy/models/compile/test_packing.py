"""Tests of packing scikit-learn trees into flat arrays, and of the models that cannot be packed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_classification
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor

from deploy.models.compile.features import NotCompilable
from deploy.models.compile.packing import pack, pack_trees
from tests.support.models.forests import double_columns, trees_of

X, Y = make_classification(200, 6, n_informative=4, n_classes=3, random_state=0)
FOREST = RandomForestClassifier(7, random_state=0).fit(X, Y)


def tree(thresholds: Sequence[float]) -> Any:
    """Return a tree in which each node has a leaf on the left, and the next node or the last leaf on the right."""
    count = len(thresholds)
    nodes = 2 * count + 1
    left, right, feature = (np.full(nodes, -1, np.int64) for _ in range(3))
    limits = np.full(nodes, -2.0)
    for i, threshold in enumerate(thresholds):
        left[2 * i], right[2 * i], feature[2 * i], limits[2 * i] = 2 * i + 1, 2 * i + 2, i, threshold
    value = np.arange(nodes, dtype=np.float64).reshape(-1, 1, 1)
    return SimpleNamespace(
        node_count=nodes, children_left=left, children_right=right, feature=feature, threshold=limits, value=value
    )


def thresholds_of(nodes: Any) -> Any:
    return nodes[:, 0].astype(np.uint32).view(np.float32)


def test_packed_nodes_match_scikit_learn_trees() -> None:
    """Each packed tree has the splits and leaves of scikit-learn's tree, each right child directly after the left."""
    trees = trees_of(FOREST)
    nodes, leaves, roots, bits = pack_trees(trees, 6)
    mask = (1 << bits) - 1
    thresholds, links = thresholds_of(nodes), nodes[:, 1].astype(np.int64)
    visited = []
    for tree, root in zip(trees, roots.tolist(), strict=True):
        pairs = [(0, root)]
        while pairs:
            node, packed = pairs.pop()
            visited.append(packed)
            target, feature = int(links[packed]) >> bits, int(links[packed]) & mask
            if tree.children_left[node] < 0:
                assert feature == mask
                assert leaves[target].tobytes() == tree.value[node, 0].tobytes()
            else:
                assert feature == tree.feature[node]
                assert thresholds[packed] <= tree.threshold[node] < np.nextafter(thresholds[packed], np.float32(np.inf))
                pairs += [(tree.children_left[node], target), (tree.children_right[node], target + 1)]
    assert sorted(visited) == list(range(len(nodes)))


def test_nodes_are_numbered_breadth_first() -> None:
    """Nodes are numbered level by level, in the order of their parents."""
    for fitted_tree in trees_of(FOREST):
        nodes, _, roots, bits = pack_trees([fitted_tree], 6)
        links = nodes[:, 1].astype(np.int64)
        inner = (links & ((1 << bits) - 1)) != (1 << bits) - 1
        assert roots.tolist() == [0]
        assert (links[inner] >> bits).tolist() == list(range(1, 2 * int(inner.sum()), 2))


def test_roots_are_cumulative_node_counts() -> None:
    """The nodes of each tree follow those of the tree before it."""
    _, _, roots, _ = pack_trees(trees_of(FOREST), 6)
    assert roots.dtype == np.int64
    assert roots.tolist() == np.cumsum([0, *(tree.node_count for tree in trees_of(FOREST))])[:-1].tolist()


def test_equal_leaves_are_stored_once() -> None:
    """Leaves with equal values share one row, within a tree and between trees."""
    nodes, leaves, _, bits = pack_trees(trees_of(FOREST), 6)
    assert leaves.dtype == np.float64
    assert leaves.flags.c_contiguous
    assert len(np.unique(leaves, axis=0)) == len(leaves)
    links = nodes[:, 1].astype(np.int64)
    leaf_rows = links[(links & ((1 << bits) - 1)) == (1 << bits) - 1] >> bits
    assert set(leaf_rows.tolist()) == set(range(len(leaves)))
    assert len(leaves) < len(leaf_rows)


def test_single_node_tree_is_a_leaf() -> None:
    """A tree with a single node is packed as one leaf."""
    trees = trees_of(RandomForestRegressor(3, min_samples_leaf=200, bootstrap=False).fit(X, Y))
    nodes, leaves, roots, bits = pack_trees(trees, 6)
    assert (roots.tolist(), leaves.tolist(), bits) == ([0, 1, 2], [[Y.mean()]], 3)
    assert nodes[:, 1].tolist() == [0b111] * 3


@pytest.mark.parametrize(("features", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (500, 9), (2**20, 21)])
def test_feature_index_leaves_a_value_for_leaves(features: int, bits: int) -> None:
    """A feature index has enough bits to keep one value, all ones, free to mark leaves."""
    assert pack_trees([tree([0.0])], features)[3] == bits
    assert features - 1 < (1 << bits) - 1


@pytest.mark.parametrize("splits", [1, 7, 100])
def test_links_have_64_bits_only_if_needed(splits: int) -> None:
    """Nodes have 64-bit words only if a link may not fit into 32 bits, and every link keeps all its bits."""
    chain = tree([float(i) for i in range(splits)])
    widths = []
    for bits in range(8, 33):
        nodes, _, _, actual_bits = pack_trees([chain], 2**bits - 1)
        links = nodes[:, 1].astype(np.uint64)
        inner = (links & np.uint64(2**bits - 1)) != 2**bits - 1
        assert actual_bits == bits
        assert (links[inner] >> np.uint64(bits)).tolist() == list(range(1, 2 * splits, 2))
        assert sorted((links[~inner] >> np.uint64(bits)).tolist()) == list(range(splits + 1))
        widths.append(nodes.dtype.itemsize)
    assert widths == sorted(widths)
    assert set(widths) == {4, 8}


FLOATS = st.floats(allow_nan=False, allow_infinity=False, min_value=-3.4e38)
FLOATS32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=300, deadline=None)
@given(threshold=FLOATS, value=FLOATS32)
def test_rounded_thresholds_separate_the_same_floats(threshold: float, value: float) -> None:
    """Every float32 is on the same side of the packed float32 threshold as of the original float64 threshold."""
    near = float(np.float32(np.clip(threshold, -3.4e38, 3.4e38)))
    values = [value, near, *(float(np.nextafter(np.float32(near), np.float32(end))) for end in (-np.inf, np.inf))]
    packed = thresholds_of(pack_trees([tree([threshold])], 1)[0])[0]
    assert [x <= threshold for x in values] == [np.float32(x) <= packed for x in values]


def test_exact_float32_thresholds_stay_unchanged() -> None:
    """A threshold that float32 can hold exactly is packed unchanged."""
    thresholds = [0.0, 1.0, -1.0, 1e-45, -1e-45, float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)]
    thresholds = [float(np.float32(value)) for value in thresholds]
    nodes = pack_trees([tree(thresholds)], len(thresholds))[0]
    assert set(thresholds) <= set(thresholds_of(nodes).astype(float).tolist())


@pytest.mark.parametrize(
    "labels",
    [["b", "a", "c"], [3, -700, 5], [False, True, True], [0.0, -1.0, 2.5e9], np.array(["b", "a", "c"], dtype=object)],
    ids=str,
)
def test_classes_are_sorted_json_values(labels: Any) -> None:
    """Classes are plain JSON values, in scikit-learn's order."""
    estimator = DecisionTreeClassifier(max_depth=3).fit(X, np.asarray(labels)[Y])
    classes = pack(estimator, double_columns(6)).classes
    assert classes == tuple(sorted(set(labels)))
    assert json.loads(json.dumps(classes)) == list(classes or ())


@pytest.mark.parametrize("estimator", [DecisionTreeRegressor(max_depth=3), ExtraTreeRegressor(max_depth=3)])
def test_regressors_have_no_classes(estimator: Any) -> None:
    """A packed regressor has no classes, and one value per leaf."""
    packed = pack(estimator.fit(X, Y), double_columns(6))
    assert packed.classes is None
    assert packed.leaves.shape[1] == 1


def test_each_node_takes_eight_bytes() -> None:
    """A node of a small forest takes eight bytes."""
    packed = pack(FOREST, double_columns(6))
    count = sum(tree.node_count for tree in trees_of(FOREST))
    assert packed.nodes.nbytes == 8 * count
    assert packed.nbytes == 8 * count + packed.leaves.nbytes + 8 * 7


def test_dropped_known_category_follows_the_features() -> None:
    """A category that the encoder drops, but that is known, is stored after the features of the trees."""
    estimator = make_pipeline(OneHotEncoder(drop="first"), DecisionTreeClassifier()).fit(Y.reshape(-1, 1), Y)
    packed = pack(estimator, double_columns(1))
    assert [feature.first for feature in packed.features] == [1.0, 2.0, 0.0]
    assert packed.bits == 2


class OwnForest(RandomForestClassifier):  # type: ignore[misc]
    """A user's subclass of a forest, which predicts differently."""

    def predict(self, X: Any) -> Any:  # noqa: N803
        return super().predict(X) * 0


class OwnTree(DecisionTreeClassifier):  # type: ignore[misc]
    """A user's subclass of a tree."""


TWO_LABELS = np.column_stack([Y, Y % 2])
UNSUPPORTED = {
    "OwnForest": (OwnForest(2), Y),
    "OwnTree": (OwnTree(), Y),
    "GradientBoostingClassifier": (GradientBoostingClassifier(n_estimators=2), Y),
    "HistGradientBoostingClassifier": (HistGradientBoostingClassifier(max_iter=2), Y),
    "AdaBoostClassifier": (AdaBoostClassifier(n_estimators=2), Y),
    "BaggingClassifier": (BaggingClassifier(n_estimators=2), Y),
    "IsolationForest": (IsolationForest(n_estimators=2), None),
    "RandomTreesEmbedding": (RandomTreesEmbedding(2), None),
    "LogisticRegression": (LogisticRegression(max_iter=1000), Y),
    "VotingClassifier": (VotingClassifier([("one", DecisionTreeClassifier())]), Y),
    "GridSearchCV": (GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1]}, cv=2), Y),
}


@pytest.mark.parametrize("steps", [[], [StandardScaler()]])
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_model_class_is_refused_by_name(name: str, steps: list[Any]) -> None:
    """A model of an unsupported class, or of a subclass of a supported one, is refused with the name of its class."""
    model, y = UNSUPPORTED[name]
    estimator = make_pipeline(*steps, model).fit(X, y) if steps else model.fit(X, y)
    message = f"^{name} is not a forest, extra trees or decision tree of scikit-learn$"
    with pytest.raises(NotCompilable, match=message):
        pack(estimator, double_columns(6))


@pytest.mark.parametrize(
    "model", [ExtraTreesClassifier(2), RandomForestRegressor(2), DecisionTreeClassifier(), DecisionTreeRegressor()]
)
def test_several_outputs_are_refused_with_their_number(model: Any) -> None:
    """A forest or tree with several outputs is refused with their number."""
    with pytest.raises(NotCompilable, match=f"the {type(model).__name__} has 2 outputs; expected one"):
        pack(model.fit(X, TWO_LABELS), double_columns(6))


def test_labels_in_a_column_are_one_output() -> None:
    """A tree that was fitted on labels of shape n x 1 has one output and can be packed."""
    packed = pack(DecisionTreeRegressor().fit(X, Y.reshape(-1, 1)), double_columns(6))
    assert packed.leaves.shape[1] == 1


@pytest.mark.parametrize("labels", [np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]"), ["a", "\ud800"]])
def test_labels_without_json_form_are_refused(labels: Any) -> None:
    """A class label that JSON cannot represent is refused."""
    estimator = DecisionTreeClassifier().fit([[0.0], [1.0]], labels)
    with pytest.raises(NotCompilable, match="is not a string, number or boolean that JSON can hold"):
        pack(estimator, double_columns(1))
