"""Conversion of JSON values to the values that a row holds, for types that JSON lacks or that contain other values.

A date becomes ``numpy.datetime64`` in UTC, base64 becomes bytes, and a tensor becomes a NumPy array. Lists and objects
are checked against the types of their items and properties.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.inference.columns import Column, Policy, cast, describe_mismatch, show, tensor_column

# The years that numpy.datetime64 holds completely in nanoseconds, the unit of pandas and MLflow.
_FIRST_YEAR, _LAST_YEAR = 1678, 2261
# For each kind of dtype, the types of values that NumPy converts to it as a whole: they need no check of each.
_QUICK_TYPES: Mapping[str, frozenset[type]] = {
    "f": frozenset({int, float}),
    "b": frozenset({bool}),
    "U": frozenset({str}),
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
    if moment.tzinfo is not None:
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


def _to_list(column: Column, value: object, policy: Policy) -> list[object]:
    if not isinstance(value, list):
        raise ValueMismatch(describe_mismatch(column, value))
    items = column.items
    return value if items is None else [_convert_inside(items, item, policy, i) for i, item in enumerate(value)]


def _to_map(column: Column, value: object, policy: Policy) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueMismatch(describe_mismatch(column, value))
    items = column.items
    return value if items is None else {key: _convert_inside(items, item, policy, key) for key, item in value.items()}


def _to_object(column: Column, value: object, policy: Policy) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueMismatch(describe_mismatch(column, value))
    known = {inner.name: inner for inner in column.properties}
    if unknown := next((key for key in value if key not in known), None):
        raise ValueMismatch(f"is not a property of {column.name!r}", (unknown,))
    for inner in column.properties:
        if inner.required and inner.name not in value:
            raise ValueMismatch(f"is missing; must be {inner.expected}", (inner.name,))
    return {key: _convert_inside(known[key], item, policy, key) for key, item in value.items()}


def _convert_inside(column: Column, value: object, policy: Policy, key: object) -> object:
    try:
        return convert(column, value, policy)
    except ValueMismatch as error:
        raise ValueMismatch(error.detail, (key, *error.path)) from None


def _to_tensor(column: Column, value: object, policy: Policy) -> NDArray[Any]:
    dtype = np.dtype(column.dtype)
    if isinstance(value, np.ndarray) and value.dtype == dtype:
        return value
    _check_shape(column, value)
    if policy is Policy.LENIENT or _value_types(value) <= _QUICK_TYPES.get(dtype.kind, frozenset()):
        with contextlib.suppress(ValueError, TypeError, OverflowError), np.errstate(over="ignore"):
            array = np.array(value).astype(dtype)
            # A number beyond the dtype's range has become infinite.
            if policy is Policy.LENIENT or dtype.kind != "f" or np.isfinite(array).all():
                return array
    # The values are checked one by one, which is slow, and names the one that is wrong.
    element, shape = tensor_column(column.name, dtype), _shape(value)
    array = np.empty(shape, dtype)
    for index in product(*map(range, shape)):
        array[index] = _convert_element(element, value, index, policy)
    return array


def _value_types(value: object) -> set[type]:
    """Return the types of the values in nested lists."""
    types = set(map(type, value)) if isinstance(value, list) else {type(value)}
    if list not in types:
        return types
    return set().union(*map(_value_types, value))  # type: ignore[call-overload]


def _convert_element(element: Column, value: Any, index: tuple[int, ...], policy: Policy) -> object:
    for i in index:
        value = value[i]
    try:
        converted = convert(element, value, policy)
    except ValueMismatch as error:
        raise ValueMismatch(error.detail, index) from None
    return np.nan if converted is None else converted


def _check_shape(column: Column, value: object) -> None:
    """Check that nested lists have the column's shape, with the same length in each list of one level."""
    lengths = list(column.shape)

    def check(part: object, level: int, path: tuple[object, ...]) -> None:
        if level == len(lengths):
            if isinstance(part, list | dict):
                raise ValueMismatch(f"must be a single value, got {show(part)}", path)
            return
        if not isinstance(part, list):
            raise ValueMismatch(f"must be a list{_of_length(lengths[level])}, got {show(part)}", path)
        if lengths[level] == -1:
            lengths[level] = len(part)
        if len(part) != lengths[level]:
            raise ValueMismatch(f"must be a list{_of_length(lengths[level])}, got {show(part)}", path)
        for i, item in enumerate(part):
            check(item, level + 1, (*path, i))

    check(value, 0, ())


def _of_length(length: int) -> str:
    return f" of {length}" if length >= 0 else ""


def _shape(value: object) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


_CONVERTERS: Mapping[str, Callable[[Column, object, Policy], object]] = {
    "datetime": _to_datetime,
    "binary": _to_bytes,
    "array": _to_list,
    "map": _to_map,
    "object": _to_object,
    "tensor": _to_tensor,
}
