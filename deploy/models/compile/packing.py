"""Conversion of a fitted scikit-learn forest into the flat arrays that the ``forest`` engine maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from deploy.models.compile.features import NotCompilable, derive_formulas
from server.engines.packed import PackedForest
from server.inference.schema import InputSchema

# Exactly these classes: a subclass may override how it predicts.
_FORESTS = (RandomForestClassifier, ExtraTreesClassifier, RandomForestRegressor, ExtraTreesRegressor)
_TREES = (DecisionTreeClassifier, ExtraTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor)


def pack(estimator: Any, schema: InputSchema) -> PackedForest:
    """Return the packed form of a fitted estimator, usually a pipeline, for rows of ``schema``.

    Raises:
        NotCompilable: its last step is not a supported forest or tree, or an earlier step has no formula.
    """
    steps = [step for _, step in estimator.steps] if type(estimator) is Pipeline else [estimator]
    model = steps.pop()
    if type(model) not in _FORESTS + _TREES:
        raise NotCompilable(f"{type(model).__name__} is not a forest, extra trees or decision tree of scikit-learn")
    if model.n_outputs_ != 1:
        raise NotCompilable(f"the {type(model).__name__} has {model.n_outputs_} outputs; expected one")
    classes = model.classes_.tolist() if hasattr(model, "classes_") else None
    if invalid_labels := [label for label in classes or () if not _is_json(label)]:
        raise NotCompilable(f"the class {invalid_labels[0]!r} is not a string, number or boolean that JSON can hold")
    formulas = derive_formulas(steps, schema, getattr(estimator, "feature_names_in_", None))
    if len(formulas.features) != model.n_features_in_:
        raise NotCompilable(
            f"the steps produce {len(formulas.features)} features, and the trees expect {model.n_features_in_}"
        )
    trees = [tree.tree_ for tree in model.estimators_] if type(model) in _FORESTS else [model.tree_]
    nodes, leaves, roots, bits = pack_trees(trees, len(formulas.features))
    return PackedForest(
        nodes=nodes,
        leaves=leaves,
        roots=roots,
        bits=bits,
        features=(*formulas.features, *formulas.unused_categories),
        codes=tuple(formulas.codes),
        classes=None if classes is None else tuple(classes),
    )


def _is_json(label: Any) -> bool:
    if isinstance(label, str):
        return label.isascii() or label == label.encode(errors="ignore").decode()  # UTF-8 has no lone surrogates.
    return isinstance(label, bool | int) or (isinstance(label, float) and math.isfinite(label))


def pack_trees(trees: list[Any], features: int) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64], int]:
    """Return the nodes, leaves, roots and bits of a :class:`PackedForest` for trees of this number of features."""
    sizes = [tree.node_count for tree in trees]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    leaves, leaf_of = np.unique(np.concatenate([_values(tree) for tree in trees]), axis=0, return_inverse=True)
    bits = features.bit_length()  # The index of all ones, which marks a leaf, is then larger than any feature's.
    needs_64_bits = max(sum(sizes), len(leaves)) >> (32 - bits) > 0
    nodes = np.empty((sum(sizes), 2), np.uint64 if needs_64_bits else np.uint32)
    first_leaf = 0
    for tree, root in zip(trees, roots, strict=True):
        count = int((tree.children_left < 0).sum())
        _write(tree, int(root), leaf_of.ravel()[first_leaf : first_leaf + count], bits, nodes)
        first_leaf += count
    return nodes, leaves, roots, bits


def _values(tree: Any) -> NDArray[np.float64]:
    """Return the values of a tree's leaves, in the order of scikit-learn's nodes (leaves x classes, or x 1)."""
    values: NDArray[np.float64] = tree.value[tree.children_left < 0, 0, :]
    return values


def _write(tree: Any, root: int, leaf_of: NDArray[np.int64], bits: int, nodes: NDArray[Any]) -> None:
    """Write one tree's nodes into ``nodes``, starting at index ``root``."""
    index = root + _breadth_first(tree.children_left, tree.children_right)
    inner = tree.children_left >= 0
    targets, features = np.empty(len(index), np.uint64), np.full(len(index), (1 << bits) - 1, np.uint64)
    targets[inner] = index[tree.children_left[inner]]
    targets[~inner] = leaf_of
    features[inner] = tree.feature[inner]
    nodes[index, 0] = _floor32(tree.threshold).view(np.uint32)
    nodes[index, 1] = targets << np.uint64(bits) | features


def _breadth_first(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the breadth-first number of each node; the children of a node get consecutive numbers."""
    numbers = np.zeros(len(left), np.int64)
    level, next_number = np.zeros(1, np.int64), 1
    while len(level):
        inner = level[left[level] >= 0]
        level = np.column_stack([left[inner], right[inner]]).ravel()
        numbers[level] = np.arange(next_number, next_number + len(level))
        next_number += len(level)
    return numbers


def _floor32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 that is not above each threshold.

    scikit-learn compares float32 features with float64 thresholds, so the comparison has the same result.
    """
    with np.errstate(over="ignore"):  # A threshold beyond float32 becomes infinity, and then the largest float32.
        nearest = thresholds.astype(np.float32)
        below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > thresholds, below, nearest)
