"""The features of a model: their MLflow types, and the values that they accept under each of the two policies.

The strict policy, of ``/predict``, accepts only values of the column's type and within its range. The lenient policy,
of MLflow's scoring server, also converts values of other types; see :func:`cast`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np

from server.errors import ModelError

# Rows are float64, which represents every whole number up to this one exactly.
_LARGEST_EXACT_INTEGER = 2**53
_FLOAT32 = float(np.finfo(np.float32).max)
_FLOAT64 = float(np.finfo(np.float64).max)

# MLflow's number types that are served, with the range of values that each can hold.
_TYPE_RANGES: Mapping[str, tuple[float, float]] = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-_LARGEST_EXACT_INTEGER, _LARGEST_EXACT_INTEGER),
    "float": (-_FLOAT32, _FLOAT32),
    "double": (-_FLOAT64, _FLOAT64),
}
_SCALARS = (int, float, bool)
_INTEGER_TYPES = frozenset({"integer", "long"})


class Policy(Enum):
    """The treatment of values of another type than their column's, and of columns that the model does not have.

    STRICT refuses both. LENIENT converts values as MLflow does, and ignores unknown columns.
    """

    STRICT = "strict"
    LENIENT = "lenient"


@dataclass(frozen=True, slots=True)
class Column:
    """A feature with its MLflow type and, for numbers, its range (inclusive).

    ``has_range`` is whether the model's metadata limit the range; otherwise it is that of the type. ``observed`` are
    the lowest and the highest value in the training data, if the metadata state them: they refuse no value.
    """

    name: str
    type: str
    required: bool = True
    low: float = -math.inf
    high: float = math.inf
    has_range: bool = False
    observed: tuple[float, float] | None = None

    @property
    def is_string(self) -> bool:
        """Whether the values are strings; all others become float64."""
        return self.type == "string"

    @property
    def is_integer(self) -> bool:
        """Whether the values are whole numbers; 3000.0 is one."""
        return self.type in _INTEGER_TYPES

    @property
    def usual_range(self) -> tuple[float, float] | None:
        """The lowest and the highest value to draw numbers from: observed in training, or else allowed; or None."""
        return self.observed or ((self.low, self.high) if self.has_range else None)

    @property
    def expected(self) -> str:
        """A description of valid values for error messages, such as "a whole number from 1 to 40"."""
        if self.type == "string":
            return "a string"
        if self.type == "boolean":
            return "true or false"
        number = "a whole number" if self.is_integer else "a number"
        return f"{number} from {show(self.low)} to {show(self.high)}" if self.has_range else number

    def accepts(self, value: object) -> bool:
        """Return whether a JSON value is valid for this column. A bool is not a number here, although Python's is."""
        value_type = type(value)
        if value_type is float or value_type is int:
            if self.type not in _TYPE_RANGES or not self.low <= value <= self.high:  # type: ignore[operator]
                return False
            return value_type is int or not self.is_integer or value.is_integer()  # type: ignore[attr-defined]
        if value_type is str:
            return self.type == "string"
        if value_type is bool:
            return self.type == "boolean"
        return value is None and not self.required

    def without_range(self) -> Column:
        """Return this column without the range of the model's metadata, limited only by its type."""
        if not self.has_range:
            return self
        low, high = _TYPE_RANGES[self.type]
        return replace(self, low=low, high=high, has_range=False)


def cast(column: Column, value: object) -> object:
    """Convert a JSON value to the column's type if MLflow's scoring server does so, else return it unchanged.

    MLflow converts with ``astype`` of NumPy and pandas: it truncates fractions in integer columns, reads numbers in
    text, takes booleans as 0 and 1, and writes scalars as text. Text is never converted to a boolean here, unlike in
    MLflow, where "false" becomes True.
    """
    value_type = type(value)
    if column.is_string:
        return str(value) if value_type in _SCALARS else value
    if column.type == "boolean":
        return bool(value) if value_type in (int, float) else value
    if value_type not in _SCALARS and value_type is not str:
        return value
    try:
        return int(value) if column.is_integer else float(value)  # type: ignore[call-overload, arg-type]
    except (ValueError, OverflowError):
        return value


def parse_column(
    index: int,
    spec: Mapping[str, Any],
    ranges: Mapping[str, Any],
    observed: Mapping[str, Any] = MappingProxyType({}),
) -> Column:
    """Return the column at ``index`` of an MLflow signature, with its range and what was observed in training, if any.

    ``ranges`` and ``observed`` are ``{name: [low, high]}`` in the model's metadata.

    Raises:
        ModelError: the column's type is not served, or its range or its observed values are malformed.
    """
    if spec.get("type") == "tensor":
        raise ModelError(
            "the model has a tensor signature; expected named columns (log it with a DataFrame's signature)"
        )
    name, type_name = str(spec.get("name", index)), str(spec.get("type"))
    required = bool(spec.get("required", True))
    if type_name in ("string", "boolean"):
        if name in ranges or name in observed:
            raise ModelError(f"the model's metadata has a range for {name!r}, which is a {type_name} column")
        return Column(name, type_name, required)
    if type_name not in _TYPE_RANGES:
        served = ", ".join([*_TYPE_RANGES, "boolean", "string"])
        raise ModelError(f"column {name!r} of the model has the type {type_name}; expected one of {served}")
    limits = _TYPE_RANGES[type_name]
    if name in ranges:
        limits = _parse_range("range", name, ranges[name], limits)
    seen = _parse_range("observed range", name, observed[name], limits) if name in observed else None
    return Column(name, type_name, required, *limits, has_range=name in ranges, observed=seen)


def _parse_range(noun: str, name: str, value: object, limits: tuple[float, float]) -> tuple[float, float]:
    """Return a range of the metadata, reduced to the values that the column can hold."""
    lowest, highest = limits
    match value:
        case [int() | float() as low, int() | float() as high] if max(low, lowest) <= min(high, highest):
            return max(low, lowest), min(high, highest)
    raise ModelError(f"the model's metadata has the {noun} {value!r} for {name!r}; expected [low, high]")


def describe_mismatch(column: Column, value: object) -> str:
    """Return the error text for a value that the column does not accept."""
    expected = column.expected
    if column.type in _TYPE_RANGES and not column.has_range and type(value) in (int, float):
        # The number exceeds the range of the column's type, which `expected` does not mention.
        expected += f" from {show(column.low)} to {show(column.high)}"
    return f"must be {expected}, got {show(value)}"


def show(value: object) -> str:  # noqa: PLR0911  (one return per type)
    """Return a short text for a JSON value in an error message, however long the value is."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "an object"
        case list():
            return f"a list of {len(value)}"
        case str():
            return f'"{value}"' if len(value) <= 40 else f'"{value[:40]}..."'
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
    return str(value)[:40]
