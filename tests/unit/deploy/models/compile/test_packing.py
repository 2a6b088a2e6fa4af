"""Trees as flat arrays: where each node lies, what it says, and which models are refused."""

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
    """A chain: each node has a leaf on the left, and the next node, or the last leaf, on the right."""
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
    """Followed from its root, each packed tree has scikit-learn's splits and leaves, the right child after the left."""
    trees = trees_of(FOREST)
    nodes, leaves, roots, bits = pack_trees(trees, 6)
    mask = (1 << bits) - 1
    thresholds, links = thresholds_of(nodes), nodes[:, 1].astype(np.int64)
    seen = []
    for tree, root in zip(trees, roots.tolist(), strict=True):
        pairs = [(0, root)]
        while pairs:
            theirs, ours = pairs.pop()
            seen.append(ours)
            target, feature = int(links[ours]) >> bits, int(links[ours]) & mask
            if tree.children_left[theirs] < 0:
                assert feature == mask
                assert leaves[target].tobytes() == tree.value[theirs, 0].tobytes()
            else:
                assert feature == tree.feature[theirs]
                assert thresholds[ours] <= tree.threshold[theirs] < np.nextafter(thresholds[ours], np.float32(np.inf))
                pairs += [(tree.children_left[theirs], target), (tree.children_right[theirs], target + 1)]
    assert sorted(seen) == list(range(len(nodes)))


def test_nodes_are_numbered_breadth_first() -> None:
    """Nodes are numbered level by level: the children of one level follow each other in the order of their parents."""
    for one in trees_of(FOREST):
        nodes, _, roots, bits = pack_trees([one], 6)
        links = nodes[:, 1].astype(np.int64)
        inner = (links & ((1 << bits) - 1)) != (1 << bits) - 1
        assert roots.tolist() == [0]
        assert (links[inner] >> bits).tolist() == list(range(1, 2 * int(inner.sum()), 2))


def test_roots_are_cumulative_node_counts() -> None:
    """Trees lie one after another, in their order."""
    _, _, roots, _ = pack_trees(trees_of(FOREST), 6)
    assert roots.dtype == np.int64
    assert roots.tolist() == np.cumsum([0, *(tree.node_count for tree in trees_of(FOREST))])[:-1].tolist()


def test_equal_leaves_are_stored_once() -> None:
    """Each distribution is kept once, however many leaves of however many trees have it."""
    nodes, leaves, _, bits = pack_trees(trees_of(FOREST), 6)
    assert leaves.dtype == np.float64
    assert leaves.flags.c_contiguous
    assert len(np.unique(leaves, axis=0)) == len(leaves)
    links = nodes[:, 1].astype(np.int64)
    ends = links[(links & ((1 << bits) - 1)) == (1 << bits) - 1] >> bits
    assert set(ends.tolist()) == set(range(len(leaves)))
    assert len(leaves) < len(ends)


def test_single_node_tree_is_a_leaf() -> None:
    """Trees of one node are one leaf each."""
    trees = trees_of(RandomForestRegressor(3, min_samples_leaf=200, bootstrap=False).fit(X, Y))
    nodes, leaves, roots, bits = pack_trees(trees, 6)
    assert (roots.tolist(), leaves.tolist(), bits) == ([0, 1, 2], [[Y.mean()]], 3)
    assert nodes[:, 1].tolist() == [0b111] * 3


@pytest.mark.parametrize(("features", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (500, 9), (2**20, 21)])
def test_feature_index_leaves_a_value_for_leaves(features: int, bits: int) -> None:
    """A feature's index takes as many bits as leave one value, all ones, for leaves."""
    assert pack_trees([tree([0.0])], features)[3] == bits
    assert features - 1 < (1 << bits) - 1


@pytest.mark.parametrize("splits", [1, 7, 100])
def test_when_links_are_wide(splits: int) -> None:
    """Words have 64 bits only where a link might not fit into 32, and hold it whole in either."""
    one = tree([float(i) for i in range(splits)])
    widths = []
    for bits in range(8, 33):
        nodes, _, _, found = pack_trees([one], 2**bits - 1)
        links = nodes[:, 1].astype(np.uint64)
        inner = (links & np.uint64(2**bits - 1)) != 2**bits - 1
        assert found == bits
        assert (links[inner] >> np.uint64(bits)).tolist() == list(range(1, 2 * splits, 2))
        assert sorted((links[~inner] >> np.uint64(bits)).tolist()) == list(range(splits + 1))
        widths.append(nodes.dtype.itemsize)
    assert widths == sorted(widths)
    assert set(widths) == {4, 8}


FLOATS = st.floats(allow_nan=False, allow_infinity=False, min_value=-3.4e38)
NARROW = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=300, deadline=None)
@given(threshold=FLOATS, value=NARROW)
def test_rounded_thresholds_separate_the_same_floats(threshold: float, value: float) -> None:
    """Every float32 is on the same side of a packed threshold as of the one of 64 bits."""
    near = float(np.float32(np.clip(threshold, -3.4e38, 3.4e38)))
    values = [value, near, *(float(np.nextafter(np.float32(near), np.float32(end))) for end in (-np.inf, np.inf))]
    packed = thresholds_of(pack_trees([tree([threshold])], 1)[0])[0]
    assert [x <= threshold for x in values] == [np.float32(x) <= packed for x in values]


def test_exact_float32_thresholds_stay_unchanged() -> None:
    """A threshold that 32 bits hold stays what it is, down to the smallest and up to the largest."""
    kept = [0.0, 1.0, -1.0, 1e-45, -1e-45, float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)]
    kept = [float(np.float32(value)) for value in kept]
    nodes = pack_trees([tree(kept)], len(kept))[0]
    assert set(kept) <= set(thresholds_of(nodes).astype(float).tolist())


@pytest.mark.parametrize(
    "labels",
    [["b", "a", "c"], [3, -700, 5], [False, True, True], [0.0, -1.0, 2.5e9], np.array(["b", "a", "c"], dtype=object)],
    ids=str,
)
def test_classes_are_sorted_json_values(labels: Any) -> None:
    """Classes are JSON's own values, in scikit-learn's order."""
    estimator = DecisionTreeClassifier(max_depth=3).fit(X, np.asarray(labels)[Y])
    classes = pack(estimator, double_columns(6)).classes
    assert classes == tuple(sorted(set(labels)))
    assert json.loads(json.dumps(classes)) == list(classes or ())


@pytest.mark.parametrize("estimator", [DecisionTreeRegressor(max_depth=3), ExtraTreeRegressor(max_depth=3)])
def test_regressors_have_no_classes(estimator: Any) -> None:
    """A regressor is known by having no classes."""
    packed = pack(estimator.fit(X, Y), double_columns(6))
    assert packed.classes is None
    assert packed.leaves.shape[1] == 1


def test_each_node_takes_eight_bytes() -> None:
    """A node takes eight bytes."""
    packed = pack(FOREST, double_columns(6))
    count = sum(tree.node_count for tree in trees_of(FOREST))
    assert packed.nodes.nbytes == 8 * count
    assert packed.nbytes == 8 * count + packed.leaves.nbytes + 8 * 7


def test_dropped_known_categories_are_kept_as_extra() -> None:
    """A category that is dropped, but known, is kept beside the trees' features."""
    estimator = make_pipeline(OneHotEncoder(drop="first"), DecisionTreeClassifier()).fit(Y.reshape(-1, 1), Y)
    packed = pack(estimator, double_columns(1))
    assert [feature.first for feature in packed.features] == [1.0, 2.0, 0.0]
    assert packed.bits == 2


class Stubborn(RandomForestClassifier):  # type: ignore[misc]
    """A user's own forest."""

    def predict(self, X: Any) -> Any:  # noqa: N803
        return super().predict(X) * 0


class OwnTree(DecisionTreeClassifier):  # type: ignore[misc]
    """A user's own tree."""


TWO = np.column_stack([Y, Y % 2])
OTHERS = {
    "Stubborn": (Stubborn(2), Y),
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


@pytest.mark.parametrize("behind", [[], [StandardScaler()]])
@pytest.mark.parametrize("name", OTHERS)
def test_unsupported_model_class_is_refused_by_name(name: str, behind: list[Any]) -> None:
    """Another kind of model, and a subclass of a known kind, is refused by its name."""
    model, y = OTHERS[name]
    estimator = make_pipeline(*behind, model).fit(X, y) if behind else model.fit(X, y)
    with pytest.raises(NotCompilable, match=f"^{name} is no forest, extra trees or decision tree of scikit-learn$"):
        pack(estimator, double_columns(6))


@pytest.mark.parametrize(
    "model", [ExtraTreesClassifier(2), RandomForestRegressor(2), DecisionTreeClassifier(), DecisionTreeRegressor()]
)
def test_several_outputs_are_refused_with_their_number(model: Any) -> None:
    """A forest or a tree of several outputs is refused by their number."""
    with pytest.raises(NotCompilable, match=f"the {type(model).__name__} has 2 outputs; compiled ones have one"):
        pack(model.fit(X, TWO), double_columns(6))


def test_one_column_of_labels() -> None:
    """One output that came as a column is one output."""
    packed = pack(DecisionTreeRegressor().fit(X, Y.reshape(-1, 1)), double_columns(6))
    assert packed.leaves.shape[1] == 1


@pytest.mark.parametrize("labels", [np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]"), ["a", "\ud800"]])
def test_labels_without_json_form_are_refused(labels: Any) -> None:
    """A class that no answer in JSON could name is refused."""
    estimator = DecisionTreeClassifier().fit([[0.0], [1.0]], labels)
    with pytest.raises(NotCompilable, match="is no string, number or boolean that JSON has"):
        pack(estimator, double_columns(1))
