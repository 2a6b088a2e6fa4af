"""What a model takes: from the MLflow signature and the ranges in its metadata, to valid rows.

The next stage takes only :class:`Rows`, so nothing is validated twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from server.errors import Fault, InvalidRows, ModelError
from server.rows import Row, Rows

# The most faults that one answer lists: enough to mend a client, not enough to be used for amplification.
MAX_FAULTS = 20

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
_WHOLE = frozenset({"integer", "long"})
_MISSING = object()


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
        return f"{kind} from {_show(self.low)} to {_show(self.high)}" if self.limited else kind

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


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed request: its valid rows, and whether it asked for many (``instances``) or for one."""

    values: Sequence[Row]
    many: bool


@dataclass(frozen=True)
class InputSchema:
    """The columns of a model, in the order of its signature."""

    columns: tuple[Column, ...]
    _names: tuple[str, ...] = field(init=False, repr=False)
    _number_places: tuple[int, ...] = field(init=False, repr=False)
    _string_places: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        places = range(len(self.columns))
        object.__setattr__(self, "_names", tuple(column.name for column in self.columns))
        object.__setattr__(self, "_number_places", tuple(i for i in places if not self.columns[i].is_string))
        object.__setattr__(self, "_string_places", tuple(i for i in places if self.columns[i].is_string))

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names."""
        return self._names

    @classmethod
    def from_signature(cls, inputs: Sequence[Mapping[str, Any]] | None, ranges: Mapping[str, Any]) -> InputSchema:
        """From the ``inputs`` of an MLflow signature and a ``{name: [low, high]}`` of its metadata.

        Raises:
            ModelError: there is no column signature, a column has a type that is not served, or a range is malformed.
        """
        if not inputs:
            raise ModelError("the model has no signature; log it with signature=infer_signature(...) on a DataFrame")
        if not isinstance(ranges, Mapping):
            raise ModelError(f"the model's metadata has the ranges {ranges!r}; expected {{name: [low, high]}}")
        columns = tuple(_column(i, spec, ranges) for i, spec in enumerate(inputs))
        names = {column.name for column in columns}
        if len(names) < len(columns):
            raise ModelError("the model's signature names a column twice; expected every name once")
        if unknown := sorted(set(ranges) - names):
            raise ModelError(f"the model's metadata has a range for {unknown[0]!r}, which is none of its columns")
        return cls(columns)

    def parse(self, document: object, max_rows: int) -> Query:
        """The rows of one request's JSON document, in any of its three forms.

        Raises:
            InvalidRows: naming each fault (at most 20) with its place as a JSON pointer.
        """
        if not isinstance(document, dict):
            raise _invalid([Fault(f"must be an object, got {_show(document)}", "#")])
        form = self._form(document)
        if form is not None and len(document) > 1:
            extra = (name for name in document if name != form)
            raise _invalid([Fault(f"is not expected beside {form!r}", f"#/{_escape(name)}") for name in extra])
        if form == "instances":
            return Query(self._many(document["instances"], max_rows), many=True)
        faults: list[Fault] = []
        row = self._row(document, "#", faults) if form is None else self._listed(document[form], "#/features", faults)
        return Query(_valid([row], faults), many=False)

    def _form(self, document: Mapping[str, object]) -> str | None:
        """The key that wraps the rows; a feature of the same name is a feature."""
        return next((key for key in ("instances", "features") if key in document and key not in self._names), None)

    def _many(self, instances: object, max_rows: int) -> Sequence[Row]:
        pointer = "#/instances"
        if not isinstance(instances, list) or not instances:
            raise _invalid([Fault(f"must be a list of at least one row, got {_show(instances)}", pointer)])
        if len(instances) > max_rows:
            raise _invalid([Fault(f"must have at most {max_rows} rows, got {len(instances)}", pointer)])
        faults: list[Fault] = []
        rows = []
        for i, instance in enumerate(instances):
            rows.append(self._row(instance, f"{pointer}/{i}", faults))
            if len(faults) >= MAX_FAULTS:
                break
        return _valid(rows, faults)

    def _row(self, value: object, pointer: str, faults: list[Fault]) -> list[object]:
        if isinstance(value, dict):
            return self._named(value, pointer, faults)
        return self._listed(value, pointer, faults)

    def _named(self, value: dict[str, object], pointer: str, faults: list[Fault]) -> list[object]:
        row = [value.get(name, _MISSING) for name in self._names]
        if len(value) != len(row) - row.count(_MISSING):
            unknown = (name for name in value if name not in self._names)
            faults.extend(Fault("is not a feature of this model", f"{pointer}/{_escape(name)}") for name in unknown)
        self._check(row, self._names, pointer, faults)
        return row

    def _listed(self, value: object, pointer: str, faults: list[Fault]) -> list[object]:
        if not isinstance(value, list) or len(value) != len(self.columns):
            got = f"{len(value)} values" if isinstance(value, list) else _show(value)
            also = "" if pointer == "#/features" else " or an object of features by name"
            faults.append(Fault(f"must be a list of {len(self.columns)} values{also}, got {got}", pointer))
            return []
        row = list(value)
        self._check(row, range(len(row)), pointer, faults)
        return row

    def _check(self, row: list[object], keys: Iterable[object], pointer: str, faults: list[Fault]) -> None:
        """Find what is wrong in a row, and make a missing optional value None."""
        for i, (column, key) in enumerate(zip(self.columns, keys, strict=True)):
            value = row[i]
            if column.accepts(value):
                continue
            if value is not _MISSING:
                faults.append(Fault(_mismatch(column, value), f"{pointer}/{_escape(key)}"))
            elif column.required:
                faults.append(Fault(f"is missing; must be {column.expected}", f"{pointer}/{_escape(key)}"))
            else:
                row[i] = None

    def rows(self, values: Sequence[Row]) -> Rows:
        """Valid rows as the block that engines take; made once for all rows of a batch."""
        if not self._string_places:
            return Rows(np.array(values, dtype=np.float64), np.empty((len(values), 0), dtype=np.object_))
        return Rows(
            np.array([[row[i] for i in self._number_places] for row in values], dtype=np.float64),
            np.array([[row[i] for i in self._string_places] for row in values], dtype=np.object_),
        )


def _valid(rows: Sequence[Row], faults: Sequence[Fault]) -> Sequence[Row]:
    if faults:
        raise _invalid(faults)
    return rows


def _column(place: int, spec: Mapping[str, Any], ranges: Mapping[str, Any]) -> Column:
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


def _mismatch(column: Column, value: object) -> str:
    expected = column.expected
    if column.type in _NUMBERS and not column.limited and type(value) in (int, float):
        # In range for JSON, but not for the column's type.
        expected += f" from {_show(column.low)} to {_show(column.high)}"
    return f"must be {expected}, got {_show(value)}"


def _invalid(faults: Sequence[Fault]) -> InvalidRows:
    shown = faults[:MAX_FAULTS]
    first = shown[0]
    place = "the body" if first.pointer == "#" else unquote(first.pointer.removeprefix("#/")).replace("/", ".")
    more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
    return InvalidRows(f"{place} {first.detail}{more}", shown)


def _show(value: object) -> str:  # noqa: PLR0911  (one return a kind)
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
    return str(value)


def _escape(key: object) -> str:
    """A key as a token of a JSON pointer in a URI fragment (RFC 6901, section 6), cut short where it is long."""
    return quote(str(key)[:100].replace("~", "~0").replace("/", "~1"), safe="!$&'()*+,;=:@~")
