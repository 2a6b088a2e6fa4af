"""A fitted scikit-learn forest, packed into the arrays that the ``forest`` engine maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from deploy.models.compile.features import NotCompilable, formulas
from server.engines.packed import PackedForest
from server.inference.schema import InputSchema

# A subclass may predict in another way.
_FORESTS = (RandomForestClassifier, ExtraTreesClassifier, RandomForestRegressor, ExtraTreesRegressor)
_TREES = (DecisionTreeClassifier, ExtraTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor)


def pack(estimator: Any, schema: InputSchema) -> PackedForest:
    """The packed form of a fitted estimator, most often a pipeline, for rows of ``schema``.

    Raises:
        NotCompilable: its last step is no forest of these kinds, or a step before it has no compiled form.
    """
    steps = [step for _, step in estimator.steps] if type(estimator) is Pipeline else [estimator]
    model = steps.pop()
    if type(model) not in _FORESTS + _TREES:
        raise NotCompilable(f"{type(model).__name__} is no forest, extra trees or decision tree of scikit-learn")
    if model.n_outputs_ != 1:
        raise NotCompilable(f"the {type(model).__name__} has {model.n_outputs_} outputs; compiled ones have one")
    classes = model.classes_.tolist() if hasattr(model, "classes_") else None
    if strange := [label for label in classes or () if not _is_json(label)]:
        raise NotCompilable(f"the class {strange[0]!r} is no string, number or boolean that JSON has")
    made = formulas(steps, schema, getattr(estimator, "feature_names_in_", None))
    if len(made.features) != model.n_features_in_:
        raise NotCompilable(f"the steps give {len(made.features)} features, and the trees take {model.n_features_in_}")
    trees = [each.tree_ for each in model.estimators_] if type(model) in _FORESTS else [model.tree_]
    nodes, leaves, roots, bits = pack_trees(trees, len(made.features))
    return PackedForest(
        nodes=nodes,
        leaves=leaves,
        roots=roots,
        bits=bits,
        features=(*made.features, *made.extra),
        codes=tuple(made.codes),
        classes=None if classes is None else tuple(classes),
    )


def _is_json(label: Any) -> bool:
    if isinstance(label, str):
        return label.isascii() or label == label.encode(errors="ignore").decode()  # no half of a surrogate pair
    return isinstance(label, bool | int) or (isinstance(label, float) and math.isfinite(label))


def pack_trees(trees: list[Any], features: int) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64], int]:
    """Nodes, leaves, roots and the width of a feature's index, as :class:`PackedForest` has them."""
    sizes = [tree.node_count for tree in trees]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    leaves, leaf_of = np.unique(np.concatenate([_values(tree) for tree in trees]), axis=0, return_inverse=True)
    bits = features.bit_length()  # so that all ones is no feature
    wide = max(sum(sizes), len(leaves)) >> (32 - bits) > 0
    nodes = np.empty((sum(sizes), 2), np.uint64 if wide else np.uint32)
    taken = 0
    for tree, root in zip(trees, roots, strict=True):
        count = int((tree.children_left < 0).sum())
        _write(tree, int(root), leaf_of.ravel()[taken : taken + count], bits, nodes)
        taken += count
    return nodes, leaves, roots, bits


def _values(tree: Any) -> NDArray[np.float64]:
    """What each leaf of a tree says, in the order of scikit-learn's nodes: leaves x outputs."""
    values: NDArray[np.float64] = tree.value[tree.children_left < 0, 0, :]
    return values


def _write(tree: Any, root: int, leaf_of: NDArray[np.int64], bits: int, nodes: NDArray[Any]) -> None:
    """Write one tree's nodes, from ``root`` on."""
    place = root + _breadth_first(tree.children_left, tree.children_right)
    inner = tree.children_left >= 0
    targets, features = np.empty(len(place), np.uint64), np.full(len(place), (1 << bits) - 1, np.uint64)
    targets[inner] = place[tree.children_left[inner]]
    targets[~inner] = leaf_of
    features[inner] = tree.feature[inner]
    nodes[place, 0] = _floor32(tree.threshold).view(np.uint32)
    nodes[place, 1] = targets << np.uint64(bits) | features


def _breadth_first(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The new number of each node, counted level by level from the root; two children are neighbours."""
    place = np.zeros(len(left), np.int64)
    level, taken = np.zeros(1, np.int64), 1
    while len(level):
        inner = level[left[level] >= 0]
        level = np.column_stack([left[inner], right[inner]]).ravel()
        place[level] = np.arange(taken, taken + len(level))
        taken += len(level)
    return place


def _floor32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 not above each: scikit-learn compares float32 features with float64 thresholds."""
    with np.errstate(over="ignore"):  # above all float32 is infinity, and the largest of them not above it
        nearest = thresholds.astype(np.float32)
        below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > thresholds, below, nearest)
