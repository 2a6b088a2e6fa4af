"""Packed forests beside the scikit-learn models that they were made from, as the tests of the engine take them."""

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

Floats = npt.NDArray[np.float64]

_compiled = cache(native._compiled)


@cache
def _walk(words: int) -> native.Function:
    code = native.object_file(kernel.__name__, str(words), None)
    return native.Function(code, kernel.SYMBOL, kernel.ARGUMENTS)


def engine_of(forest: PackedForest, schema: InputSchema) -> ForestEngine:
    """As ``forest.make`` does; the kernel is compiled once in all tests of a process."""
    return ForestEngine(forest, schema, _walk(forest.words))


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """What the code under test compiles is compiled once in all tests of a process."""
    patch.setattr(native, "_compiled", _compiled)


def schema_of(kinds: dict[str, str], optional: str | None = None) -> InputSchema:
    """Columns by name and MLflow's type."""
    inputs = [{"name": name, "type": kind, "required": name != optional} for name, kind in kinds.items()]
    return InputSchema.from_signature(inputs, {})


def double_columns(count: int) -> InputSchema:
    """So many columns of float64."""
    return schema_of({f"x{i}": "double" for i in range(count)})


def numeric_rows(x: npt.ArrayLike) -> Rows:
    """Rows of columns that are all numbers."""
    values = np.asarray(x, np.float64)
    return Rows(values, np.empty((len(values), 0), dtype=np.object_))


def rows_of(schema: InputSchema, frame: pd.DataFrame) -> Rows:
    """A frame's rows as the server gets them, through its schema."""
    document = {"instances": frame.astype(object).to_numpy().tolist()}
    return schema.rows(schema.parse(document, len(frame)).values)


def trees_of(estimator: Any) -> list[Any]:
    """scikit-learn's arrays of each tree."""
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return [tree.tree_ for tree in getattr(final, "estimators_", [final])]


def with_thresholds(tree: Any, thresholds: npt.ArrayLike) -> Any:
    """A copy of a fitted tree that splits at other values, the inner nodes' in order."""
    changed = copy.deepcopy(tree)
    state = changed.tree_.__getstate__()
    nodes = state["nodes"].copy()
    inner = nodes["left_child"] >= 0
    nodes["threshold"][inner] = np.resize(np.asarray(thresholds, np.float64), int(inner.sum()))
    changed.tree_.__setstate__({**state, "nodes": nodes})
    return changed


def around_splits(estimator: Any, features: int, count: int = 600) -> Floats:
    """Rows of values on each split, of its neighbours in 64 and in 32 bits, and of what lies between."""
    rng = np.random.default_rng(1)
    x = np.empty((count, features))
    for feature in range(features):
        found = [tree.threshold[(tree.feature == feature) & (tree.children_left >= 0)] for tree in trees_of(estimator)]
        splits = np.unique(np.concatenate(found)) if found else np.zeros(0)
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
    """Packed, the model gives the same labels, of the same types, and the same bits of every total; what was packed."""
    reference, forest = SklearnEngine(estimator, schema), pack(estimator, schema)
    compiled = engine_of(forest, schema)
    assert len(rows)
    assert compiled.totals(rows).tobytes() == reference.totals(rows).tobytes()
    expected, found = reference.predict(rows), compiled.predict(rows)
    assert found == expected
    assert [type(label) for label in found.labels] == [type(label) for label in expected.labels]
    return forest
