"""One feature of a model: its MLflow type, and what a value of it may be under each of the two policies.

Strict, which is ``/predict``'s: a value is of the column's type, and in its range. Lenient, which is MLflow's scoring
server's: a value that can be made one of the type is made one; see :func:`cast`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from server.errors import ModelError

# float64 holds every whole number up to here, and rows are float64.
_EXACT = 2**53
_FLOAT32 = float(np.finfo(np.float32).max)
_FLOAT64 = float(np.finfo(np.float64).max)

# MLflow's column types that are served, with the widest range each holds.
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-_EXACT, _EXACT),
    "float": (-_FLOAT32, _FLOAT32),
    "double": (-_FLOAT64, _FLOAT64),
}
_SCALARS = (int, float, bool)
_WHOLE = frozenset({"integer", "long"})


class Policy(Enum):
    """What becomes of a value that is not of its column's type, and of a column that the model has not."""

    STRICT = "refused"
    LENIENT = "made one of its column's where MLflow does so; passed over"


@dataclass(frozen=True, slots=True)
class Column:
    """One feature: its MLflow type and, for numbers, the range it may lie in (inclusive)."""

    name: str
    type: str
    required: bool = True
    low: float = -math.inf
    high: float = math.inf
    limited: bool = False

    @property
    def is_string(self) -> bool:
        """Whether its values are strings; all others become float64."""
        return self.type == "string"

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers; 3000.0 is one."""
        return self.type in _WHOLE

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.type == "string":
            return "a string"
        if self.type == "boolean":
            return "true or false"
        kind = "a whole number" if self.is_whole else "a number"
        return f"{kind} from {show(self.low)} to {show(self.high)}" if self.limited else kind

    def accepts(self, value: object) -> bool:
        """Whether a JSON value is one of this column's. A bool is no number, though Python says so."""
        kind = type(value)
        if kind is float or kind is int:
            if self.type not in _NUMBERS or not self.low <= value <= self.high:  # type: ignore[operator]
                return False
            return kind is int or not self.is_whole or value.is_integer()  # type: ignore[attr-defined]
        if kind is str:
            return self.type == "string"
        if kind is bool:
            return self.type == "boolean"
        return value is None and not self.required

    def unlimited(self) -> Column:
        """The same column without a range of its own: what its type holds is its limit."""
        if not self.limited:
            return self
        low, high = _NUMBERS[self.type]
        return replace(self, low=low, high=high, limited=False)


def cast(column: Column, value: object) -> object:
    """A JSON value as one of the column's, where MLflow's scoring server makes it one; any other as it is.

    So do NumPy and pandas there, by ``astype``: fractions of whole numbers are cut off, text that is a number becomes
    one, booleans are 0 and 1, and anything else may be text. Not taken over: text as a boolean, where "false" is true.
    """
    kind = type(value)
    if column.is_string:
        return str(value) if kind in _SCALARS else value
    if column.type == "boolean":
        return bool(value) if kind in (int, float) else value
    if kind not in _SCALARS and kind is not str:
        return value
    try:
        return int(value) if column.is_whole else float(value)  # type: ignore[call-overload, arg-type]
    except (ValueError, OverflowError):
        return value


def column_of(place: int, spec: Mapping[str, Any], ranges: Mapping[str, Any]) -> Column:
    """The column that stands at ``place`` of a signature, with its range, if any, from the model's metadata.

    Raises:
        ModelError: its type is not served, or its range is malformed.
    """
    if spec.get("type") == "tensor":
        raise ModelError(
            "the model has a tensor signature; expected named columns (log it with a DataFrame's signature)"
        )
    name, kind = str(spec.get("name", place)), str(spec.get("type"))
    required = bool(spec.get("required", True))
    if kind in ("string", "boolean"):
        if name in ranges:
            raise ModelError(f"the model's metadata has a range for {name!r}, which is a {kind} column")
        return Column(name, kind, required)
    if kind not in _NUMBERS:
        served = ", ".join([*_NUMBERS, "boolean", "string"])
        raise ModelError(f"column {name!r} of the model has the type {kind}; served are {served}")
    if name not in ranges:
        return Column(name, kind, required, *_NUMBERS[kind])
    return Column(name, kind, required, *_range(name, kind, ranges[name]), limited=True)


def _range(name: str, kind: str, value: object) -> tuple[float, float]:
    """A range of the metadata, as far as the column's type holds it."""
    lowest, highest = _NUMBERS[kind]
    match value:
        case [int() | float() as low, int() | float() as high] if max(low, lowest) <= min(high, highest):
            return max(low, lowest), min(high, highest)
    raise ModelError(f"the model's metadata has the range {value!r} for {name!r}; expected [low, high]")


def mismatch(column: Column, value: object) -> str:
    """What is wrong with a value that the column does not accept."""
    expected = column.expected
    if column.type in _NUMBERS and not column.limited and type(value) in (int, float):
        # In range for JSON, but not for the column's type.
        expected += f" from {show(column.low)} to {show(column.high)}"
    return f"must be {expected}, got {show(value)}"


def show(value: object) -> str:  # noqa: PLR0911  (one return a kind)
    """A JSON value as an error may echo it: short, whatever was sent."""
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
