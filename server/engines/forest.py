"""The ``forest`` engine, which evaluates packed trees with a compiled kernel, without scikit-learn and pickle."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engines import companion, kernel, native
from server.engines.packed import PackedForest
from server.errors import CompanionRefused, Fault, InvalidRows, ModelError
from server.inference.columns import Column, show
from server.inference.rows import NO_OPTIONS, ClassProbabilities, Options, Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.mlmodel import MLmodel


class _OutputBuffers:
    """The arrays that the kernel writes its results for up to ``rows`` rows into.

    They are reused, because getting the address of an array takes time.
    """

    def __init__(self, rows: int, outputs: int) -> None:
        self.best = np.empty(rows, np.int64)
        self.top = np.empty(rows, np.float64)
        self.totals = np.empty((rows, outputs), np.float64)
        self.refused = ctypes.c_int64(-1)
        self.addresses = (*map(_address, (self.best, self.top, self.totals)), ctypes.addressof(self.refused))


class ForestEngine:
    """An engine for random forests, extra trees and decision trees behind one-hot, pass-through and scaling steps."""

    name = "forest"
    uses_pandas = False

    def __init__(self, forest: PackedForest, schema: InputSchema, kernel_function: native.Function) -> None:
        self.schema = schema
        self._forest = forest
        self._kernel_function = kernel_function
        numbers = [column for column in schema.columns if column.is_number]
        self._number_count = len(numbers)
        self._columns = [*numbers, *(column for column in schema.columns if not column.is_number)]
        # Columns in which the one-hot step refuses values other than its categories.
        self._known = {f.column for f in forest.features if f.operation == kernel.EQUALS_KNOWN}
        # Columns of which the trees compare the number itself, and those of which some step compares categories.
        categorical = (kernel.EQUALS, kernel.EQUALS_KNOWN)
        self._measured = sorted({f.column for f in forest.features if f.operation not in categorical})
        self._categorical = {f.column for f in forest.features if f.operation in categorical}
        trees, features, outputs = len(forest.roots), len(forest.features), forest.leaves.shape[1]
        constants: list[NDArray[np.generic]] = [
            forest.nodes, forest.roots, forest.leaves,
            np.array([f.operation for f in forest.features], np.uint8),
            np.array([f.column for f in forest.features], np.int64),
            np.array([f.first for f in forest.features], np.float64),
            np.array([f.second for f in forest.features], np.float64),
        ]  # fmt: skip
        # The kernel's working memory. After the fork, each worker has its own copy.
        scratch: list[NDArray[np.generic]] = [
            np.empty(features, np.float32), np.empty(trees, np.int64), np.empty(trees, np.int64),
            np.empty(trees, np.int64), np.empty(outputs, np.float64),
        ]  # fmt: skip
        self._referenced = (constants, scratch)  # keeps the arrays alive: the kernel has only their addresses
        nodes, roots, leaves, *feature_arrays = map(_address, constants)
        self._arguments = (
            nodes, nodes, roots, trees, leaves, outputs, forest.bits,
            *feature_arrays, features, len(self._known), *map(_address, scratch),
        )  # fmt: skip
        self._buffers = _OutputBuffers(1, outputs)

    def predict(self, rows: Rows, options: Options = NO_OPTIONS) -> Prediction:
        """Return the class of the highest probability and that probability; for a regressor, only the value."""
        buffers = self._run_kernel(rows)
        top = buffers.top[: len(rows)].tolist()
        if self._forest.classes is None:
            return Prediction(top, None)
        classes = self._forest.classes
        labels = [classes[i] for i in buffers.best[: len(rows)].tolist()]
        if not options.probabilities:
            return Prediction(labels, top)
        return Prediction(labels, top, None, (ClassProbabilities(classes, buffers.totals[: len(rows)].copy()),))

    def outputs(self, rows: Rows) -> NDArray[np.float64]:
        """Return the probability of each class, n x classes; for a regressor, the value, n x 1."""
        return self._run_kernel(rows).totals[: len(rows)].copy()

    def known_values(self) -> dict[str, object]:
        """Return a category for each column that has categories."""
        known = {}
        for feature in reversed(self._forest.features):
            if feature.operation in (kernel.EQUALS, kernel.EQUALS_KNOWN):
                known[self._columns[feature.column].name] = self._category(feature.column, feature.first)
        return known

    def _category(self, column: int, code: float) -> object:
        codes = self._forest.codes[column - len(self._columns)] if column >= self._number_count else None
        if codes is None:
            return int(code) if code.is_integer() else code
        return next(name for name, number in codes.items() if number == code)

    def _run_kernel(self, rows: Rows) -> _OutputBuffers:
        values = np.ascontiguousarray(self._encode(rows))
        count, width = values.shape
        if count > len(self._buffers.best):
            self._buffers = _OutputBuffers(count, self._buffers.totals.shape[1])
        buffers = self._buffers
        buffers.refused.value = -1
        self._kernel_function.call(*self._arguments, values.ctypes.data, count, width, *buffers.addresses)
        if buffers.refused.value >= 0:
            raise self._refusal(values, rows, buffers.refused.value)
        return buffers

    def _encode(self, rows: Rows) -> NDArray[np.float64]:
        """Return one number per column, with strings replaced by the codes of their categories.

        Raises:
            InvalidRows: a column without a type has a value that is not a number, where the trees need one.
        """
        if not self._forest.codes:
            return rows.numbers
        encoded = np.empty((len(rows), len(self._columns)))
        encoded[:, : rows.numbers.shape[1]] = rows.numbers
        for j, codes in enumerate(self._forest.codes):
            values, index = rows.objects[:, j], rows.numbers.shape[1] + j
            column = self._columns[index]
            if index not in self._categorical and index not in self._measured:
                encoded[:, index] = 0.0
            elif codes is None:
                encoded[:, index] = _to_numbers(values, column, text_is_number=index in self._measured)
            elif column.is_string:
                encoded[:, index] = [codes.get(value, -1) for value in values]
            else:
                encoded[:, index] = _to_codes(values, column, codes)
        return encoded

    def _refusal(self, encoded: NDArray[np.float64], rows: Rows, row: int) -> InvalidRows:
        """Return the error for a row that scikit-learn refuses: an unknown category, or a number beyond float32."""
        for i in sorted(self._known):
            known = [f.first for f in self._forest.features if f.column == i and f.operation == kernel.EQUALS_KNOWN]
            if encoded[row, i] not in known:
                column, numbers = self._columns[i], rows.numbers.shape[1]
                got = f"{encoded[row, i]:g}" if column.is_number else rows.objects[row, i - numbers]
                expected = f"one of the {len(known)} values that the model was fitted on"
                return _invalid_row(f"{column.name} must be {expected}, got {str(got)[:40]}", row)
        if missing := next((self._columns[i] for i in self._measured if np.isnan(encoded[row, i])), None):
            return _invalid_row(f"{missing.name} must be a number, got null", row)
        column = self._columns[max(self._measured, key=lambda i: abs(encoded[row, i]))]
        return _invalid_row(f"{column.name} is too large for the model, whose trees compare 32-bit numbers", row)


def _to_codes(values: NDArray[np.object_], column: Column, codes: Mapping[str, int]) -> list[int]:
    """Return the codes of the values of a column without a type, and -1 for any that is not one of its texts."""
    for i, value in enumerate(values):
        if isinstance(value, list | dict):
            raise _invalid_row(f"{column.name} must be a string, got {show(value)}", i)
    return [codes.get(value, -1) if isinstance(value, str) else -1 for value in values]


def _to_numbers(values: NDArray[np.object_], column: Column, *, text_is_number: bool) -> NDArray[np.float64]:
    """Return numbers as scikit-learn reads them: also from booleans and, unless they are categories, from text."""
    if not text_is_number:
        values = values.copy()
        values[[isinstance(value, str) for value in values]] = np.nan
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    for i, value in enumerate(values):
        try:
            float(np.nan if value is None else value)
        except (TypeError, ValueError, OverflowError):
            raise _invalid_row(f"{column.name} must be a number, got {show(value)}", i) from None
    raise _invalid_row(f"{column.name} must be a number", None)


def _invalid_row(detail: str, row: int | None) -> InvalidRows:
    return InvalidRows(detail, [Fault(detail, "#")], row)


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def load(mlmodel: MLmodel, kernel_cache: Path | None = None) -> ForestEngine:
    """Load the companion, mapping its arrays from their files; ``kernel_cache`` is the folder of compiled kernels.

    Raises:
        CompanionRefused: the companion does not belong to this model, its files are invalid, or the kernel does not
            compile on this machine.
    """
    folder = companion.find(mlmodel, "forest")
    try:
        return create_engine(PackedForest.load(folder), companion.input_schema(mlmodel, "forest"), kernel_cache)
    except (ModelError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CompanionRefused(f"the model's companion for the engine forest does not load: {error}") from error


def create_engine(forest: PackedForest, schema: InputSchema, kernel_cache: Path | None = None) -> ForestEngine:
    """Return an engine for a packed forest, with a kernel from ``kernel_cache`` or compiled now."""
    code = native.object_file(kernel.__name__, str(forest.field_words), kernel_cache)
    return ForestEngine(forest, schema, native.Function(code, kernel.SYMBOL, kernel.ARGUMENTS))
