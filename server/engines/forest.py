"""The ``forest`` engine: packed trees walked by one compiled kernel, with no scikit-learn and no pickle."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engines import companion, kernel, native
from server.engines.packed import PackedForest
from server.errors import CompanionRefused, Fault, InvalidRows, ModelError
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.mlmodel import MLmodel


class _Answers:
    """Where the kernel puts what it finds for up to ``rows`` rows. Kept, since asking for an address takes time."""

    def __init__(self, rows: int, outputs: int) -> None:
        self.best = np.empty(rows, np.int64)
        self.top = np.empty(rows, np.float64)
        self.totals = np.empty((rows, outputs), np.float64)
        self.refused = ctypes.c_int64(-1)
        self.addresses = (*map(_address, (self.best, self.top, self.totals)), ctypes.addressof(self.refused))


class ForestEngine:
    """Random forests, extra trees and decision trees, behind one-hot, pass-through and scaling steps."""

    name = "forest"
    uses_pandas = False

    def __init__(self, forest: PackedForest, schema: InputSchema, walk: native.Function) -> None:
        self._forest = forest
        self._walk = walk
        numbers = [column for column in schema.columns if not column.is_string]
        self._columns = [*numbers, *(column for column in schema.columns if column.is_string)]
        self._known = {f.column for f in forest.features if f.kind == kernel.EQUALS_KNOWN}
        trees, features, outputs = len(forest.roots), len(forest.features), forest.leaves.shape[1]
        constants: list[NDArray[np.generic]] = [
            forest.nodes, forest.roots, forest.leaves,
            np.array([f.kind for f in forest.features], np.uint8),
            np.array([f.column for f in forest.features], np.int64),
            np.array([f.first for f in forest.features], np.float64),
            np.array([f.second for f in forest.features], np.float64),
        ]  # fmt: skip
        # What the kernel writes; after the fork, each worker its own copy of it.
        scratch: list[NDArray[np.generic]] = [
            np.empty(features, np.float32), np.empty(trees, np.int64), np.empty(trees, np.int64),
            np.empty(trees, np.int64), np.empty(outputs, np.float64),
        ]  # fmt: skip
        self._kept = (constants, scratch)  # the kernel knows only their addresses
        nodes, roots, leaves, *of_features = map(_address, constants)
        self._arguments = (
            nodes, nodes, roots, trees, leaves, outputs, forest.bits,
            *of_features, features, len(self._known), *map(_address, scratch),
        )  # fmt: skip
        self._answers = _Answers(1, outputs)

    def predict(self, rows: Rows) -> Prediction:
        """The class of the highest probability and that probability; for a regressor, the value alone."""
        answers = self._run(rows)
        top = answers.top[: len(rows)].tolist()
        if self._forest.classes is None:
            return Prediction(top, None)
        classes = self._forest.classes
        return Prediction([classes[i] for i in answers.best[: len(rows)].tolist()], top)

    def totals(self, rows: Rows) -> NDArray[np.float64]:
        """The probability of each class, n x classes; for a regressor, the value, n x 1."""
        return self._run(rows).totals[: len(rows)].copy()

    def _run(self, rows: Rows) -> _Answers:
        values = np.ascontiguousarray(self._coded(rows))
        count, width = values.shape
        if count > len(self._answers.best):
            self._answers = _Answers(count, self._answers.totals.shape[1])
        answers = self._answers
        answers.refused.value = -1
        self._walk.call(*self._arguments, values.ctypes.data, count, width, *answers.addresses)
        if answers.refused.value >= 0:
            raise self._refusal(values, rows, answers.refused.value)
        return answers

    def _coded(self, rows: Rows) -> NDArray[np.float64]:
        """One number a column: strings as the codes of their categories."""
        if not self._forest.codes:
            return rows.numbers
        coded = [
            [codes.get(value, -1) for value in column]
            for codes, column in zip(self._forest.codes, rows.objects.T.tolist(), strict=True)
        ]
        return np.column_stack([rows.numbers, np.array(coded, np.float64).T])

    def _refusal(self, coded: NDArray[np.float64], rows: Rows, row: int) -> InvalidRows:
        """What scikit-learn refuses too: a category that the one-hot step does not know, or a number beyond 32 bits."""
        for place in sorted(self._known):
            known = [f.first for f in self._forest.features if f.column == place and f.kind == kernel.EQUALS_KNOWN]
            if coded[row, place] not in known:
                column, numbers = self._columns[place], rows.numbers.shape[1]
                got = rows.objects[row, place - numbers] if column.is_string else f"{coded[row, place]:g}"
                expected = f"one of the values that the model was fitted on ({len(known)} in all)"
                return _refused(f"{column.name} must be {expected}, got {str(got)[:40]}")
        large = self._columns[int(np.abs(rows.numbers[row]).argmax())]
        return _refused(f"{large.name} is too large for the model, whose trees compare numbers of 32 bits")


def _refused(detail: str) -> InvalidRows:
    return InvalidRows(detail, [Fault(detail, "#")])


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def load(mlmodel: MLmodel, kernels: Path | None = None) -> ForestEngine:
    """Map the companion's arrays; the kernel's object file is kept in ``kernels``, if given.

    Raises:
        CompanionRefused: the companion is not one of this model, its files are not what they should be, or the kernel
            does not compile here.
    """
    folder = companion.find(mlmodel, "forest")
    try:
        return make(PackedForest.load(folder), mlmodel.schema, kernels)
    except (ModelError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CompanionRefused(f"the model's companion for the engine forest does not load: {error}") from error


def make(forest: PackedForest, schema: InputSchema, kernels: Path | None = None) -> ForestEngine:
    """An engine for a forest in memory."""
    code = native.object_file(kernel.__name__, str(forest.words), kernels)
    return ForestEngine(forest, schema, native.Function(code, kernel.SYMBOL, kernel.ARGUMENTS))
