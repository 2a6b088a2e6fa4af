"""A fitted pipeline's steps as formulas: what each feature of the trees is, of the rows that a request brings.

Each is one operation on one column (:class:`server.engines.packed.Feature`), done in the order and precision in which
scikit-learn does it, so that the trees see the same bits.
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
    """The model, or a step of it, has no compiled form; the message says which and why."""


@dataclass
class Formulas:
    """What the steps in front of the trees come to.

    ``features`` are those of the trees; ``known`` are the categories that a value must be one of, and ``extra`` those
    of them that no tree sees. ``codes`` has a dict of category to code for each string column; the columns are those of
    the numbers, then those of the strings.
    """

    schema: InputSchema
    features: list[Feature] = field(default_factory=list)
    extra: list[Feature] = field(default_factory=list)
    codes: list[dict[str, int]] = field(init=False)
    columns: list[Column] = field(init=False)
    known: list[Feature] = field(default_factory=list)

    def __post_init__(self) -> None:
        strings = [column for column in self.schema.columns if column.is_string]
        self.columns = [column for column in self.schema.columns if not column.is_string] + strings
        self.codes = [{} for _ in strings]

    def is_string(self, feature: Feature) -> bool:
        """Whether a feature is made from strings; those that are not encoded have no value for a tree."""
        return self.columns[feature.column].is_string

    def name(self, feature: Feature) -> str:
        """The column that a feature is made from, as an error shows it."""
        return repr(self.columns[feature.column].name)


@dataclass(frozen=True, slots=True)
class _Table:
    """What one step hands to the next: its columns, None where the signature lacks one, and their names, if any."""

    features: Sequence[Feature | None]
    names: Sequence[str] = ()

    def chosen(self, places: Sequence[int]) -> _Table:
        return _Table([self.features[i] for i in places], [self.names[i] for i in places] if self.names else ())

    @property
    def present(self) -> list[Feature]:
        if absent := [name for name, feature in zip(self.names, self.features, strict=False) if feature is None]:
            raise NotCompilable(f"the model needs a column {absent[0]!r}, which the signature lacks")
        return [feature for feature in self.features if feature is not None]


def formulas(steps: Sequence[Any], schema: InputSchema, names: Sequence[str] | None = None) -> Formulas:
    """The features that come out of ``steps``, applied in order to rows of ``schema``.

    ``names`` are the columns of the DataFrame that they were fitted on, by which they find those of the rows.

    Raises:
        NotCompilable: naming the step, or the column, and why.
    """
    for column in schema.columns:
        if not column.required:
            raise NotCompilable(f"column {column.name!r} may be missing, and compiled trees take no missing values")
    result = Formulas(schema)
    found = {column.name: Feature(kernel.COPY, i) for i, column in enumerate(result.columns)}
    names = schema.names if names is None else [str(name) for name in names]
    features = _in_turn(steps, _Table([found.get(name) for name in names], names), result).present
    for feature in features:
        if result.is_string(feature) and feature.kind == kernel.COPY:
            raise NotCompilable(f"column {result.name(feature)} of strings reaches the trees as it is")
    _count_known_once(features, result)
    return result


def _count_known_once(features: Sequence[Feature], result: Formulas) -> None:
    """Let each known category be one feature that says so, whether later steps dropped it or took it twice."""
    counted: set[Feature] = set()
    for feature in features:
        again = feature in counted
        result.features.append(feature._replace(kind=kernel.EQUALS) if again else feature)
        if feature.kind == kernel.EQUALS_KNOWN:
            counted.add(feature)
    result.extra = [feature for feature in result.known if feature not in counted]


def _in_turn(steps: Sequence[Any], table: _Table, result: Formulas) -> _Table:
    for step in steps:
        table = _after(step, table, result)
    return table


def _after(step: Any, table: _Table, result: Formulas) -> _Table:
    """What a step makes of a table."""
    if step is None or isinstance(step, str):
        return _Table([]) if step == "drop" else table
    if type(step).__module__.partition(".")[0] != "sklearn":  # a subclass may do anything
        raise NotCompilable(f"the step {_called(step)} is none of scikit-learn's own")
    if isinstance(step, Pipeline):
        return _in_turn([part for _, part in step.steps], table, result)
    if isinstance(step, ColumnTransformer):
        return _Table(_side_by_side(step, table, result))
    for kind, apply in _STEPS.items():
        if isinstance(step, kind):
            return _Table(apply(step, table.present, result))
    return _Table(_scaled(step, table.present, result))


def _side_by_side(step: ColumnTransformer, table: _Table, result: Formulas) -> list[Feature]:
    if step.transformer_weights:
        raise NotCompilable("ColumnTransformer weighs its columns")
    out: list[Feature] = []
    for _, part, chosen in step.transformers_:
        if isinstance(part, str) and part == "drop":
            continue
        places = _places(chosen, table)
        if places:
            out += _after(part, table.chosen(places), result).present
    return out


def _places(chosen: Any, table: _Table) -> list[int]:
    """Which columns a ColumnTransformer's entry means, by name, place, slice or mask."""
    count = len(table.features)
    if isinstance(chosen, slice):
        start, stop = (_place(end, table) if isinstance(end, str) else end for end in (chosen.start, chosen.stop))
        last = isinstance(chosen.stop, str)  # a slice of names includes its end
        return list(range(count))[slice(start, stop + 1 if last else stop, chosen.step)]
    entries = [chosen] if isinstance(chosen, str | int) else list(chosen)
    if entries and all(isinstance(entry, bool | np.bool_) for entry in entries):
        return [i for i, kept in enumerate(entries) if kept]
    places = [_place(entry, table) if isinstance(entry, str) else int(entry) for entry in entries]
    return [range(count)[place] for place in places]


def _place(name: str, table: _Table) -> int:
    if name not in table.names:
        raise NotCompilable(f"ColumnTransformer finds a column {name!r} by a name that an earlier step gave it")
    return table.names.index(name)


def _one_hot(step: OneHotEncoder, features: list[Feature], result: Formulas) -> list[Feature]:
    if any(found is not None for found in getattr(step, "infrequent_categories_", ())):
        raise NotCompilable("OneHotEncoder groups infrequent categories")
    out: list[Feature] = []
    dropped = step.drop_idx_ if step.drop_idx_ is not None else [None] * len(features)
    kind = kernel.EQUALS_KNOWN if step.handle_unknown == "error" else kernel.EQUALS
    for feature, categories, without in zip(features, step.categories_, dropped, strict=True):
        _exact(feature, step, result)
        made = [Feature(kind, feature.column, _code(value, feature, result)) for value in categories]
        if kind == kernel.EQUALS_KNOWN:
            if any(known.column == feature.column for known in result.known):
                raise NotCompilable(f"column {result.name(feature)} is one-hot encoded twice")
            result.known += made
        if without is not None:
            made.pop(int(without))
        out += made
    return out


def _code(category: Any, feature: Feature, result: Formulas) -> float:
    """A category as the number that stands for it in the rows."""
    if result.is_string(feature):
        if not isinstance(category, str):
            raise NotCompilable(f"column {result.name(feature)} of strings has the category {category!r}")
        codes = result.codes[feature.column - len(result.columns)]  # those of the strings are the last
        return float(codes.setdefault(category, len(codes)))
    try:
        number = float(category)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise NotCompilable(f"column {result.name(feature)} of numbers has the category {category!r}")
    return number


def _selected(step: Any, features: list[Feature], _result: Formulas) -> list[Feature]:
    return [feature for feature, kept in zip(features, step.get_support(), strict=True) if kept]


def _passed(step: FunctionTransformer, features: list[Feature], _result: Formulas) -> list[Feature]:
    """What "passthrough" is, once fitted."""
    if step.func is not None:
        raise NotCompilable("the step FunctionTransformer has no compiled form")
    return features


def _imputed(step: SimpleImputer, features: list[Feature], _result: Formulas) -> list[Feature]:
    """Nothing is missing in rows whose columns are all required."""
    unseen = np.asarray(step.statistics_, dtype=object)
    gone = any(isinstance(value, float) and math.isnan(value) for value in unseen)
    if step.add_indicator or gone or not (isinstance(step.missing_values, float) and math.isnan(step.missing_values)):
        raise NotCompilable("SimpleImputer does more than fill NaN")
    return features


def _scaled(step: Any, features: list[Feature], result: Formulas) -> list[Feature]:
    count = len(features)
    match step:
        case StandardScaler():
            kind, first, second = kernel.SHIFT_DIVIDE, step.mean_ if step.with_mean else None, step.scale_
        case RobustScaler():
            kind, first, second = kernel.SHIFT_DIVIDE, step.center_, step.scale_
        case MaxAbsScaler() if not getattr(step, "clip", False):
            kind, first, second = kernel.SHIFT_DIVIDE, None, step.scale_
        case MinMaxScaler() if not step.clip:
            kind, first, second = kernel.MULTIPLY_ADD, step.scale_, step.min_
        case _:
            raise NotCompilable(f"the step {_called(step)} has no compiled form")
    for feature in features:
        _exact(feature, step, result)
        if result.is_string(feature):
            raise NotCompilable(f"the step {_called(step)} takes column {result.name(feature)} of strings")
    first = np.zeros(count) if first is None else first
    second = np.ones(count) if second is None else second
    return [
        Feature(kind, feature.column, float(a), float(b)) for feature, a, b in zip(features, first, second, strict=True)
    ]


def _exact(feature: Feature, step: Any, result: Formulas) -> None:
    """A formula is one operation on a value that scikit-learn, too, holds in 64 bits."""
    column = result.columns[feature.column]
    if feature.kind != kernel.COPY:
        raise NotCompilable(f"the step {_called(step)} follows another one that changes column {column.name!r}")
    if column.type == "float":
        raise NotCompilable(f"the step {_called(step)} computes column {column.name!r} in 32 bits")


def _called(step: Any) -> str:
    return type(step).__name__ if isinstance(step, BaseEstimator) else repr(step)


_STEPS: Mapping[type, Callable[[Any, list[Feature], Formulas], list[Feature]]] = {
    OneHotEncoder: _one_hot,
    SelectorMixin: _selected,
    SimpleImputer: _imputed,
    FunctionTransformer: _passed,
}
