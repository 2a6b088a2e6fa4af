"""Helpers that compare packed forests with the scikit-learn models from which they were packed."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from deploy.models.compile.packing import pack
from server.engines import kernel, native
from server.engines.forest import ForestEngine
from server.engines.packed import PackedForest
from server.engines.sklearn import SklearnEngine
from server.inference.rows import Rows
from server.inference.schema import InputSchema
from server.inference.signature import schema_from_signature

Floats = npt.NDArray[np.float64]

_compiled = cache(native._compile)


@cache
def _kernel(node_words: int) -> native.Function:
    code = native.object_file(kernel.__name__, str(node_words), None)
    return native.Function(code, kernel.SYMBOL, kernel.ARGUMENTS)


def engine_of(forest: PackedForest, schema: InputSchema) -> ForestEngine:
    """Return an engine as ``forest.make`` does, with a kernel that is compiled only once per process."""
    return ForestEngine(forest, schema, _kernel(forest.field_words))


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """Make the code under test compile each kernel only once per process."""
    patch.setattr(native, "_compile", _compiled)


def schema_of(types: dict[str, str], optional: str | None = None) -> InputSchema:
    """Return a schema of columns, given as MLflow's type by name."""
    inputs = [{"name": name, "type": column_type, "required": name != optional} for name, column_type in types.items()]
    return schema_from_signature(inputs, {})


def double_columns(count: int) -> InputSchema:
    """Return a schema of ``count`` float64 columns."""
    return schema_of({f"x{i}": "double" for i in range(count)})


def numeric_rows(x: npt.ArrayLike) -> Rows:
    """Return rows whose columns are all numeric, from an array of shape (rows, columns)."""
    values = np.asarray(x, np.float64)
    return Rows(values, np.empty((len(values), 0), dtype=np.object_))


def rows_of(schema: InputSchema, frame: pd.DataFrame) -> Rows:
    """Parse the rows of a frame with a schema, as the server does with a request."""
    document = {"instances": frame.astype(object).to_numpy().tolist()}
    return schema.to_rows(schema.parse(document, len(frame)).values)


def trees_of(estimator: Any) -> list[Any]:
    """Return the array form, ``tree_``, of each tree of a scikit-learn estimator or pipeline."""
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return [tree.tree_ for tree in getattr(final, "estimators_", [final])]


def with_thresholds(tree: Any, thresholds: npt.ArrayLike) -> Any:
    """Return a copy of a fitted tree with other thresholds, given in the order of its inner nodes."""
    changed = copy.deepcopy(tree)
    state = changed.tree_.__getstate__()
    nodes = state["nodes"].copy()
    inner = nodes["left_child"] >= 0
    nodes["threshold"][inner] = np.resize(np.asarray(thresholds, np.float64), int(inner.sum()))
    changed.tree_.__setstate__({**state, "nodes": nodes})
    return changed


def around_splits(estimator: Any, features: int, count: int = 600) -> Floats:
    """Return random rows of thresholds, their nearest float64 and float32 values, and values between these."""
    rng = np.random.default_rng(1)
    x = np.empty((count, features))
    for feature in range(features):
        trees = trees_of(estimator)
        thresholds = [tree.threshold[(tree.feature == feature) & (tree.children_left >= 0)] for tree in trees]
        splits = np.unique(np.concatenate(thresholds)) if thresholds else np.zeros(0)
        narrow = splits.astype(np.float32)
        values = [
            np.array([0.0, -0.0, 1.0]),
            splits,
            *(np.nextafter(splits, end) for end in (-np.inf, np.inf)),
            *(np.nextafter(narrow, np.float32(end)).astype(np.float64) for end in (-np.inf, np.inf)),
            (np.nextafter(narrow, np.float32(np.inf)).astype(np.float64) + narrow) / 2,
        ]
        x[:, feature] = rng.choice(np.concatenate(values), count)
    return x


def assert_same(estimator: Any, schema: InputSchema, rows: Rows) -> PackedForest:
    """Pack an estimator, assert that both give identical totals and labels, and return the packed forest."""
    reference, forest = SklearnEngine(estimator, schema), pack(estimator, schema)
    compiled = engine_of(forest, schema)
    assert len(rows)
    assert compiled.outputs(rows).tobytes() == reference.outputs(rows).tobytes()
    expected, prediction = reference.predict(rows), compiled.predict(rows)
    assert prediction == expected
    assert [type(label) for label in prediction.labels] == [type(label) for label in expected.labels]
    return forest
