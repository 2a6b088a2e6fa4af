"""A fitted pipeline's steps as formulas, which compute the features of the trees from the columns of a request.

Each formula is one operation on one column (:class:`server.engines.packed.Feature`), in the order and precision that
scikit-learn uses, so that the trees see the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    RobustScaler,
    StandardScaler,
)

from server.engines import kernel
from server.engines.packed import Feature
from server.inference.columns import Column
from server.inference.schema import InputSchema


class NotCompilable(Exception):
    """The model, or one of its steps, has no compiled form; the message names it and the reason."""


@dataclass
class Formulas:
    """The formulas of all features of the trees, after the steps of the pipeline.

    ``features`` are the inputs of the trees. ``known_categories`` are the categories of columns that accept no others;
    ``unused_categories`` are those of them that no tree uses. ``columns`` are the schema's number columns, then all
    others; ``codes`` has, for each of those, the code of each category, or None if its values are numbers.
    """

    schema: InputSchema
    features: list[Feature] = field(default_factory=list)
    unused_categories: list[Feature] = field(default_factory=list)
    codes: list[dict[str, int] | None] = field(init=False)
    columns: list[Column] = field(init=False)
    known_categories: list[Feature] = field(default_factory=list)

    def __post_init__(self) -> None:
        objects = [column for column in self.schema.columns if not column.is_number]
        self.columns = [column for column in self.schema.columns if column.is_number] + objects
        self.codes = [{} if column.is_string else None for column in objects]

    def is_string(self, feature: Feature) -> bool:
        """Return whether the feature is computed from a column of strings: by its type, or by its categories."""
        index = feature.column - len(self.columns)  # Counted from the end: number columns come first.
        return -index <= len(self.codes) and self.codes[index] is not None

    def set_categories(self, feature: Feature, categories: Sequence[Any]) -> None:
        """Note the categories of a feature's column, whose type they tell if the model has no signature."""
        is_untyped = self.columns[feature.column].type == "any" and not self.is_string(feature)
        if is_untyped and all(isinstance(value, str) for value in categories):
            self.codes[feature.column - len(self.columns)] = {}

    def name(self, feature: Feature) -> str:
        """Return the quoted name of the feature's column, for error messages."""
        return repr(self.columns[feature.column].name)


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns that one step passes to the next: None for a column that the signature lacks; names may be empty."""

    features: Sequence[Feature | None]
    names: Sequence[str] = ()

    def select(self, indices: Sequence[int]) -> _Table:
        return _Table([self.features[i] for i in indices], [self.names[i] for i in indices] if self.names else ())

    @property
    def required_features(self) -> list[Feature]:
        if missing := [name for name, feature in zip(self.names, self.features, strict=False) if feature is None]:
            raise NotCompilable(f"the model needs column {missing[0]!r}, which its signature lacks")
        return [feature for feature in self.features if feature is not None]


def derive_formulas(steps: Sequence[Any], schema: InputSchema, names: Sequence[str] | None = None) -> Formulas:
    """Return the formulas of the features that ``steps`` compute, in order, from rows of ``schema``.

    ``names`` are the columns of the DataFrame that the steps were fitted on; without them, the schema's.

    Raises:
        NotCompilable: a step or a column has no formula.
    """
    for column in schema.columns:
        if not column.required:
            raise NotCompilable(f"column {column.name!r} is optional, and compiled trees accept no missing values")
        if not (column.is_number or column.is_string or column.type == "any"):
            raise NotCompilable(f"column {column.name!r} has the type {column.type}, which compiled trees do not take")
    formulas = Formulas(schema)
    inputs = {column.name: Feature(kernel.COPY, i) for i, column in enumerate(formulas.columns)}
    names = schema.names if names is None else [str(name) for name in names]
    table = _Table([inputs.get(name) for name in names], names)
    features = _apply_all(steps, table, formulas).required_features
    for feature in features:
        if formulas.is_string(feature) and feature.operation == kernel.COPY:
            raise NotCompilable(f"string column {formulas.name(feature)} reaches the trees without being encoded")
    _count_known_once(features, formulas)
    return formulas


def _count_known_once(features: Sequence[Feature], formulas: Formulas) -> None:
    """Make each known category exactly one feature of the kind EQUALS_KNOWN.

    The kernel rejects a row as unknown unless exactly one such feature matches its column. Later steps may have
    dropped a category, or used it twice.
    """
    counted: set[Feature] = set()
    for feature in features:
        is_repeated = feature in counted
        formulas.features.append(feature._replace(operation=kernel.EQUALS) if is_repeated else feature)
        if feature.operation == kernel.EQUALS_KNOWN:
            counted.add(feature)
    formulas.unused_categories = [feature for feature in formulas.known_categories if feature not in counted]


def _apply_all(steps: Sequence[Any], table: _Table, formulas: Formulas) -> _Table:
    for step in steps:
        table = _apply(step, table, formulas)
    return table


def _apply(step: Any, table: _Table, formulas: Formulas) -> _Table:
    if step is None or isinstance(step, str):
        return _Table([]) if step == "drop" else table
    if type(step).__module__.partition(".")[0] != "sklearn":  # A user's subclass may compute anything.
        raise NotCompilable(f"the step {_step_name(step)} is not a class of scikit-learn's own")
    if isinstance(step, Pipeline):
        return _apply_all([part for _, part in step.steps], table, formulas)
    if isinstance(step, ColumnTransformer):
        return _Table(_column_transformer(step, table, formulas))
    for step_class, derive in _STEPS.items():
        if isinstance(step, step_class):
            return _Table(derive(step, table.required_features, formulas))
    return _Table(_scaler(step, table.required_features, formulas))


def _column_transformer(step: ColumnTransformer, table: _Table, formulas: Formulas) -> list[Feature]:
    if step.transformer_weights:
        raise NotCompilable("ColumnTransformer has transformer_weights")
    features: list[Feature] = []
    for _, part, selection in step.transformers_:
        if isinstance(part, str) and part == "drop":
            continue
        indices = _column_indices(selection, table)
        if indices:
            features += _apply(part, table.select(indices), formulas).required_features
    return features


def _column_indices(selection: Any, table: _Table) -> list[int]:
    """Return the indices of the columns that a ColumnTransformer selects by names, indices, a slice or a mask."""
    count = len(table.features)
    if isinstance(selection, slice):
        bounds = (selection.start, selection.stop)
        start, stop = (_column_index(bound, table) if isinstance(bound, str) else bound for bound in bounds)
        is_stop_included = isinstance(selection.stop, str)  # as in pandas, for a slice of names
        return list(range(count))[slice(start, stop + 1 if is_stop_included else stop, selection.step)]
    entries = [selection] if isinstance(selection, str | int) else list(selection)
    if entries and all(isinstance(entry, bool | np.bool_) for entry in entries):
        return [i for i, is_selected in enumerate(entries) if is_selected]
    indices = [_column_index(entry, table) if isinstance(entry, str) else int(entry) for entry in entries]
    return [range(count)[index] for index in indices]


def _column_index(name: str, table: _Table) -> int:
    if name not in table.names:
        raise NotCompilable(f"ColumnTransformer selects column {name!r} by a name that an earlier step gave it")
    return table.names.index(name)


def _one_hot_encoder(step: OneHotEncoder, features: list[Feature], formulas: Formulas) -> list[Feature]:
    if any(infrequent is not None for infrequent in getattr(step, "infrequent_categories_", ())):
        raise NotCompilable("OneHotEncoder groups infrequent categories")
    encoded: list[Feature] = []
    dropped_indices = step.drop_idx_ if step.drop_idx_ is not None else [None] * len(features)
    operation = kernel.EQUALS_KNOWN if step.handle_unknown == "error" else kernel.EQUALS
    for feature, categories, dropped_index in zip(features, step.categories_, dropped_indices, strict=True):
        formulas.set_categories(feature, categories)
        _require_float64_copy(feature, step, formulas)
        column_features = [Feature(operation, feature.column, _code(value, feature, formulas)) for value in categories]
        if operation == kernel.EQUALS_KNOWN:
            if any(known.column == feature.column for known in formulas.known_categories):
                raise NotCompilable(f"column {formulas.name(feature)} is one-hot encoded twice")
            formulas.known_categories += column_features
        if dropped_index is not None:
            column_features.pop(int(dropped_index))
        encoded += column_features
    return encoded


def _code(category: Any, feature: Feature, formulas: Formulas) -> float:
    """Return the number that stands for a category in the rows of the compiled trees."""
    if formulas.is_string(feature):
        if not isinstance(category, str):
            raise NotCompilable(f"string column {formulas.name(feature)} has the category {category!r}")
        codes = formulas.codes[feature.column - len(formulas.columns)]
        return math.nan if codes is None else float(codes.setdefault(category, len(codes)))
    try:
        number = float(category)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise NotCompilable(f"number column {formulas.name(feature)} has the category {category!r}")
    return number


def _selector(step: Any, features: list[Feature], _formulas: Formulas) -> list[Feature]:
    return [feature for feature, is_selected in zip(features, step.get_support(), strict=True) if is_selected]


def _function_transformer(step: FunctionTransformer, features: list[Feature], _formulas: Formulas) -> list[Feature]:
    """Pass the features through: fitting turns "passthrough" into a FunctionTransformer without a function."""
    if step.func is not None:
        raise NotCompilable("the step FunctionTransformer has no compiled form")
    return features


def _imputer(step: SimpleImputer, features: list[Feature], _formulas: Formulas) -> list[Feature]:
    """Pass the features through: all columns are required, so that no value is ever missing."""
    statistics = np.asarray(step.statistics_, dtype=object)
    drops_columns = any(isinstance(value, float) and math.isnan(value) for value in statistics)
    fills_nan = isinstance(step.missing_values, float) and math.isnan(step.missing_values)
    if step.add_indicator or drops_columns or not fills_nan:
        raise NotCompilable("SimpleImputer does more than fill NaN")
    return features


def _scaler(step: Any, features: list[Feature], formulas: Formulas) -> list[Feature]:
    count = len(features)
    match step:
        case StandardScaler():
            operation, first, second = kernel.SHIFT_DIVIDE, step.mean_ if step.with_mean else None, step.scale_
        case RobustScaler():
            operation, first, second = kernel.SHIFT_DIVIDE, step.center_, step.scale_
        case MaxAbsScaler() if not getattr(step, "clip", False):
            operation, first, second = kernel.SHIFT_DIVIDE, None, step.scale_
        case MinMaxScaler() if not step.clip:
            operation, first, second = kernel.MULTIPLY_ADD, step.scale_, step.min_
        case _:
            raise NotCompilable(f"the step {_step_name(step)} has no compiled form")
    for feature in features:
        _require_float64_copy(feature, step, formulas)
        if formulas.is_string(feature):
            raise NotCompilable(f"the step {_step_name(step)} is applied to string column {formulas.name(feature)}")
    first = np.zeros(count) if first is None else first
    second = np.ones(count) if second is None else second
    return [
        Feature(operation, feature.column, float(a), float(b))
        for feature, a, b in zip(features, first, second, strict=True)
    ]


def _require_float64_copy(feature: Feature, step: Any, formulas: Formulas) -> None:
    """Check that the step reads an unchanged column in 64 bits: a formula is one such operation.

    Raises:
        NotCompilable: an earlier step changes the column, or scikit-learn computes it in 32 bits.
    """
    column = formulas.columns[feature.column]
    if feature.operation != kernel.COPY:
        raise NotCompilable(f"the step {_step_name(step)} follows another step that changes column {column.name!r}")
    if column.type == "float":
        raise NotCompilable(f"the step {_step_name(step)} computes column {column.name!r} in 32 bits")


def _step_name(step: Any) -> str:
    return type(step).__name__ if isinstance(step, BaseEstimator) else repr(step)


_STEPS: Mapping[type, Callable[[Any, list[Feature], Formulas], list[Feature]]] = {
    OneHotEncoder: _one_hot_encoder,
    SelectorMixin: _selector,
    SimpleImputer: _imputer,
    FunctionTransformer: _function_transformer,
}
