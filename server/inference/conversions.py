"""Conversion of JSON values to the values that a row holds, for types that JSON lacks or that contain other values.

A date becomes ``numpy.datetime64`` in UTC, base64 becomes bytes, and a tensor becomes a NumPy array. Lists and objects
are checked against the types of their items and properties.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.inference.columns import Column, Policy, cast, describe_mismatch, show, tensor_column

# The years that numpy.datetime64 holds completely in nanoseconds, the unit of pandas and MLflow.
_FIRST_YEAR, _LAST_YEAR = 1678, 2261
# For each kind of dtype, the types of values that NumPy converts to it as a whole, as the policy would each of them.
_QUICK_TYPES: Mapping[Policy, Mapping[str, frozenset[type]]] = {
    Policy.STRICT: {
        "f": frozenset({int, float, type(None)}),
        "i": frozenset({int}),
        "u": frozenset({int}),
        "b": frozenset({bool}),
        "U": frozenset({str}),
    },
    Policy.LENIENT: {
        "f": frozenset({int, float, bool, type(None)}),
        "i": frozenset({int, bool}),
        "u": frozenset({int, bool}),
        "b": frozenset({int, float, bool}),
        "U": frozenset({str, int, float, bool}),
    },
}


class ValueMismatch(Exception):
    """A value that its column does not accept; ``path`` has the keys and indices that lead to it inside the value."""

    def __init__(self, detail: str, path: tuple[object, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.path = path


def convert(column: Column, value: object, policy: Policy) -> object:
    """Return the value that a row holds for a JSON value of this column.

    Raises:
        ValueMismatch: the column does not accept the value.
    """
    if column.accepts(value):
        return value
    if column.type in _CONVERTERS:
        return _CONVERTERS[column.type](column, value, policy)
    if policy is Policy.LENIENT and column.accepts(converted := cast(column, value)):
        return converted
    raise ValueMismatch(describe_mismatch(column, value))


def _to_datetime(column: Column, value: object, policy: Policy) -> np.datetime64:
    """Return a time in UTC. Under the lenient policy, a whole number counts nanoseconds since 1970, as in pandas."""
    if policy is Policy.LENIENT and type(value) is int and abs(value) < 2**63:
        return np.datetime64(value, "ns")
    moment = _parse_moment(value)
    if moment is None:
        raise ValueMismatch(describe_mismatch(column, value))
    # Only for such years: in UTC, a time of the first or the last day of datetime may be none that it can hold.
    if moment.tzinfo is not None and _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueMismatch(f"must be a date or time from {_FIRST_YEAR} to {_LAST_YEAR}, got {show(value)}")
    return np.datetime64(moment, "ns")


def _parse_moment(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day)
    except (ValueError, OverflowError):
        return None
    return value if isinstance(value, datetime) else None


def _to_bytes(column: Column, value: object, _policy: Policy) -> bytes:
    if isinstance(value, bytes):  # from Parquet
        return value
    try:
        if isinstance(value, str):
            return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ValueMismatch(describe_mismatch(column, value))


def _to_list(column: Column, value: object, _policy: Policy) -> list[object]:
    if not isinstance(value, list):
        raise ValueMismatch(describe_mismatch(column, value))
    items = column.items
    return value if items is None else [_convert_inside(items, item, i) for i, item in enumerate(value)]


def _to_map(column: Column, value: object, _policy: Policy) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueMismatch(describe_mismatch(column, value))
    items = column.items
    return value if items is None else {key: _convert_inside(items, item, key) for key, item in value.items()}


def _to_object(column: Column, value: object, _policy: Policy) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueMismatch(describe_mismatch(column, value))
    known = {inner.name: inner for inner in column.properties}
    if not column.is_open:
        for key in value:
            if key not in known:
                raise ValueMismatch(f"is not a property of {column.name!r}", (key,))
        for inner in column.properties:
            if inner.required and inner.name not in value:
                raise ValueMismatch(f"is missing; must be {inner.expected}", (inner.name,))
    return {key: _convert_inside(known[key], item, key) if key in known else item for key, item in value.items()}


def _convert_inside(column: Column, value: object, key: object) -> object:
    """Return a value inside another, which MLflow does not convert to another type either.

    A number gets the type of its column in Python, because JSON does not tell 2.0 from 2.
    """
    try:
        converted = convert(column, value, Policy.STRICT)
    except ValueMismatch as error:
        raise ValueMismatch(error.detail, (key, *error.path)) from None
    if type(converted) not in (int, float) or not column.is_number:
        return converted
    return int(converted) if column.is_integer else float(converted)  # type: ignore[call-overload, arg-type]


def _to_tensor(column: Column, value: object, policy: Policy) -> NDArray[Any]:
    dtype = np.dtype(column.dtype)
    if isinstance(value, np.ndarray) and value.dtype == dtype:
        return value
    shape, types = _shape_and_types(column, value)
    if types <= _QUICK_TYPES[policy].get(dtype.kind, frozenset()):
        # A number beyond the dtype is an error of NumPy: OverflowError for an int, FloatingPointError for a float.
        with contextlib.suppress(OverflowError, FloatingPointError), np.errstate(over="raise"):
            return np.array(value, dtype).reshape(shape)
    # The values are converted one by one, which is slow, and names the one that is wrong.
    element, array = tensor_column(column.name, dtype), np.empty(shape, np.object_)
    if dtype.kind in "iu":  # a tensor holds all its integers exactly, unlike the float64 of a row's other numbers
        element = replace(element, low=np.iinfo(dtype).min, high=np.iinfo(dtype).max)
    for index in product(*map(range, shape)):
        array[index] = _convert_element(element, value, index, policy)
    return array.astype(dtype)


def _convert_element(element: Column, value: Any, index: tuple[int, ...], policy: Policy) -> object:
    for i in index:
        value = value[i]
    try:
        converted = convert(element, value, policy)
    except ValueMismatch as error:
        raise ValueMismatch(error.detail, index) from None
    if isinstance(converted, str) and element.dtype is not None and element.dtype.kind == "S":
        return converted.encode()
    return np.nan if converted is None and element.nullable else converted


def _shape_and_types(column: Column, value: object) -> tuple[tuple[int, ...], frozenset[type]]:
    """Return the shape of nested lists and the types of their values.

    Raises:
        ValueMismatch: a list is missing or too deep, or has another length than the column's shape or the other lists.
    """
    lengths, types = list(column.shape), set[type]()

    def check(part: object, level: int, path: tuple[object, ...]) -> None:
        length = lengths[level]
        if not isinstance(part, list) or length not in (-1, len(part)):
            raise ValueMismatch(f"must be a list{_of_length(length)}, got {show(part)}", path)
        lengths[level] = len(part)
        if level < len(lengths) - 1:
            for i, item in enumerate(part):
                check(item, level + 1, (*path, i))
            return
        part_types = set(map(type, part))
        if list in part_types or dict in part_types:
            i = next(i for i, item in enumerate(part) if isinstance(item, list | dict))
            raise ValueMismatch(f"must be a single value, got {show(part[i])}", (*path, i))
        types.update(part_types)

    check(value, 0, ())
    return tuple(max(length, 0) for length in lengths), frozenset(types)


def _of_length(length: int) -> str:
    return f" of {length}" if length >= 0 else ""


_CONVERTERS: Mapping[str, Callable[[Column, object, Policy], object]] = {
    "datetime": _to_datetime,
    "binary": _to_bytes,
    "array": _to_list,
    "map": _to_map,
    "object": _to_object,
    "tensor": _to_tensor,
}
