"""The features of a model: their types, and the values that they accept under each of the two policies.

The strict policy, of ``/predict``, accepts only values of the column's type and within its range. The lenient policy,
of MLflow's scoring server, also converts values of other types; see :func:`cast`. Types that JSON lacks, such as dates,
are converted under both policies by :mod:`server.inference.conversions`.
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

# MLflow's number types, with the range of values that each can hold.
_TYPE_RANGES: Mapping[str, tuple[float, float]] = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-_LARGEST_EXACT_INTEGER, _LARGEST_EXACT_INTEGER),
    "float": (-_FLOAT32, _FLOAT32),
    "double": (-_FLOAT64, _FLOAT64),
}
_SCALARS = (int, float, bool)
_INTEGER_TYPES = frozenset({"integer", "long"})
_NUMBER_TYPES = frozenset({*_TYPE_RANGES, "boolean"})
# Types whose values JSON can hold, but whose content the signature does not limit enough to know that the model takes
# them.
_LOOSE_TYPES = frozenset({"any", "array", "object", "map"})
# The descriptions of types for error messages, where the type has no range.
_EXPECTED: Mapping[str, str] = {
    "string": "a string",
    "boolean": "true or false",
    "datetime": 'a date or time in ISO 8601, such as "2024-01-31T12:00:00"',
    "binary": "a string in base64",
    "any": "any value",
    "array": "a list",
    "object": "an object",
    "map": "an object",
}
# The column type for values of a tensor, by the kind of its dtype.
_KIND_TYPES: Mapping[str, str] = {"b": "boolean", "U": "string", "S": "string", "O": "any", "M": "datetime"}


# The value of a column that a row does not have.
MISSING = object()


class Policy(Enum):
    """The treatment of values of another type than their column's, and of columns that the model does not have.

    STRICT refuses both. LENIENT converts values as MLflow does, and ignores unknown columns.
    """

    STRICT = "strict"
    LENIENT = "lenient"


@dataclass(frozen=True, slots=True)
class Column:
    """A feature with its type and, for numbers, its range (inclusive).

    ``type`` is one of MLflow's, or "any" for a column without a type, or "tensor" for an array of the shape ``shape``
    in each row, where -1 stands for any length. ``has_range`` is whether the model's metadata limit the range;
    otherwise it is that of the type. ``observed`` are the lowest and the highest value in the training data, if the
    metadata state them: they refuse no value. ``nullable`` is whether null stands for NaN. ``items`` describes the
    values of an array or a map, and ``properties`` those of an object; ``is_open`` is whether an object may lack them
    and have others, which the model itself checks. ``is_json`` is whether the signature says that values may be lists
    or objects. ``dtype`` is that of the tensor that the column is a part of, or None.
    """

    name: str
    type: str
    required: bool = True
    low: float = -math.inf
    high: float = math.inf
    has_range: bool = False
    observed: tuple[float, float] | None = None
    nullable: bool = False
    items: Column | None = None
    properties: tuple[Column, ...] = ()
    is_open: bool = False
    is_json: bool = False
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] | None = None

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers or booleans, which become float64; all others stay Python objects."""
        return self.type in _NUMBER_TYPES

    @property
    def is_string(self) -> bool:
        """Whether the values are strings."""
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
    def is_loose(self) -> bool:
        """Whether the model may refuse values that the column accepts, because its type says too little."""
        return self.type in _LOOSE_TYPES or -1 in self.shape

    @property
    def expected(self) -> str:
        """A description of valid values for error messages, such as "a whole number from 1 to 40"."""
        if self.type in _EXPECTED:
            return _EXPECTED[self.type]
        if self.type == "tensor":
            return f"an array of {self.dtype} of the shape {list(self.shape)}"
        number = "a whole number" if self.is_integer else "a number"
        return f"{number} from {show(self.low)} to {show(self.high)}" if self.has_range else number

    def accepts(self, value: object) -> bool:
        """Return whether a JSON value is valid as it is. A bool is not a number here, although Python's is."""
        value_type = type(value)
        if value_type is float or value_type is int:
            if self.type not in _TYPE_RANGES or not self.low <= value <= self.high:  # type: ignore[operator]
                return self.type == "any"
            return value_type is int or not self.is_integer or value.is_integer()  # type: ignore[attr-defined]
        if value_type is str:
            return self.type in ("string", "any")
        if value_type is bool:
            return self.type in ("boolean", "any")
        if value is None:
            return not self.required or self.nullable or self.type == "any"
        return self.type == "any" and value is not MISSING

    def opened(self) -> Column:
        """Return this column with all objects in it open."""
        items = None if self.items is None else self.items.opened()
        properties = tuple(column.opened() for column in self.properties)
        return replace(self, items=items, properties=properties, is_open=self.type == "object")

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
    if column.type not in _TYPE_RANGES or (value_type not in _SCALARS and value_type is not str):
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
    name = str(spec.get("name", index))
    column = _typed_column(name, spec)
    if name not in ranges and name not in observed:
        return column
    if column.type not in _TYPE_RANGES:
        raise ModelError(f"the model's metadata has a range for {name!r}, which is a {column.type} column")
    limits = _TYPE_RANGES[column.type]
    if name in ranges:
        limits = _parse_range("range", name, ranges[name], limits)
    seen = _parse_range("observed range", name, observed[name], limits) if name in observed else None
    return replace(column, low=limits[0], high=limits[1], has_range=name in ranges, observed=seen)


def _typed_column(name: str, spec: Mapping[str, Any]) -> Column:
    """Return the column that MLflow describes as ``spec``, with the columns inside it for arrays, objects and maps."""
    type_name, required = str(spec.get("type")), bool(spec.get("required", True))
    if type_name in _TYPE_RANGES:
        return Column(name, type_name, required, *_TYPE_RANGES[type_name])
    if type_name not in (*_EXPECTED, "boolean"):
        served = ", ".join([*_TYPE_RANGES, *_EXPECTED])
        raise ModelError(f"column {name!r} of the model has the type {type_name}; expected one of {served}")
    inner = spec.get("items" if type_name == "array" else "values")
    items = _typed_column(name, inner) if type_name in ("array", "map") and isinstance(inner, Mapping) else None
    properties = spec.get("properties") if type_name == "object" else None
    nested = tuple(_typed_column(key, value) for key, value in (properties or {}).items())
    is_json = type_name in ("any", "array", "object", "map")
    return Column(name, type_name, required, items=items, properties=nested, is_json=is_json)


def tensor_column(name: str, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> Column:
    """Return the column for the values of a tensor in each row: one value, or an array of the shape ``shape``."""
    if shape:
        return Column(name, "tensor", shape=shape, dtype=dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        type_name = "integer" if dtype.itemsize <= 4 else "long"
        lowest, highest = _TYPE_RANGES["long"]
        return Column(name, type_name, low=max(limits.min, lowest), high=min(limits.max, highest), dtype=dtype)
    if dtype.kind == "f":
        type_name = "double" if dtype.itemsize > 4 else "float"
        limit = min(float(np.finfo(dtype).max), _FLOAT64)
        return Column(name, type_name, low=-limit, high=limit, nullable=True, dtype=dtype)
    if dtype.kind not in _KIND_TYPES:
        raise ModelError(f"tensor {name!r} of the model has the dtype {dtype}, which JSON cannot hold")
    return Column(name, _KIND_TYPES[dtype.kind], dtype=dtype)


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
    is_number = column.type in _TYPE_RANGES and isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not column.has_range and not column.low <= value <= column.high:  # type: ignore[operator]
        # `expected` does not mention the range of the column's type.
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
