"""What a model takes: from the MLflow signature and the ranges in its metadata, to valid rows.

The next stage takes only :class:`Rows`, so nothing is validated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from server.errors import Fault, InvalidRows, ModelError, SchemaMismatch
from server.inference.columns import Column, Policy, cast, column_of, mismatch, show
from server.inference.rows import Row, Rows

# The most faults that one answer lists: enough to mend a client, not enough to be used for amplification.
MAX_FAULTS = 20

_MISSING = object()


class Query(NamedTuple):
    """A parsed request: its valid rows, and whether it asked for many (``instances``) or for one."""

    values: Sequence[Row]
    many: bool


@dataclass(frozen=True, slots=True)
class RowTable:
    """Rows as lists that are all as long as ``names``.

    ``pointer`` is where they came from, as a JSON pointer, and ``place`` where the value of a row and a column did.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[object]]
    pointer: str
    place: Callable[[int, int], str]


@dataclass(frozen=True)
class InputSchema:
    """The columns of a model, in the order of its signature."""

    columns: tuple[Column, ...]
    policy: Policy = Policy.STRICT
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
        columns = tuple(column_of(i, spec, ranges) for i, spec in enumerate(inputs))
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
            raise _invalid([Fault(f"must be an object, got {show(document)}", "#")])
        form = self._form(document)
        if form is not None and len(document) > 1:
            extra = islice((name for name in document if name != form), MAX_FAULTS)
            raise _invalid([Fault(f"is not expected beside {form!r}", f"#/{_escape(name)}") for name in extra])
        if form == "instances":
            return Query(self._many(document["instances"], max_rows), many=True)
        faults: list[Fault] = []
        row = self._row(document, "#", faults) if form is None else self._listed(document[form], "#/features", faults)
        return Query(_valid([row], faults), many=False)

    def lenient(self) -> InputSchema:
        """The same columns under MLflow's leniency; the ranges are our own addition, and it has none."""
        return InputSchema(tuple(column.unlimited() for column in self.columns), Policy.LENIENT)

    def records(self, records: object, pointer: str, max_rows: int) -> Sequence[Row]:
        """The rows of a list of objects.

        Raises:
            SchemaMismatch: a required column is in none of them.
            InvalidRows: anything else is wrong with them.
        """
        faults: list[Fault] = []
        rows = []
        for i, record in enumerate(records := _some(records, pointer, max_rows)):
            if isinstance(record, dict):
                rows.append(self._named(record, f"{pointer}/{i}", faults))
            else:
                faults.append(Fault(f"must be an object of columns by name, got {show(record)}", f"{pointer}/{i}"))
            if len(faults) >= MAX_FAULTS:
                break
        if faults:
            self._present({name for record in records if isinstance(record, dict) for name in record}, pointer)
        return _valid(rows, faults)

    def table(self, table: RowTable, max_rows: int) -> Sequence[Row]:
        """The rows of a table, in whatever order its columns are; those that the model has not are passed over.

        Raises:
            SchemaMismatch: it has not all required columns.
            InvalidRows: anything else is wrong with it.
        """
        where = {name: place for place, name in reversed([*enumerate(table.names)])}
        self._present(where, table.pointer)
        places = [where.get(name) for name in self._names]
        faults: list[Fault] = []
        rows = []
        for i, given in enumerate(_some(table.rows, table.pointer, max_rows)):
            row = [_MISSING if j is None else given[j] for j in places]
            rows.append(row)
            found: list[Fault] = []
            self._check(row, places, "", found)
            faults += [Fault(fault.detail, table.place(i, int(fault.pointer[1:]))) for fault in found]
            if len(faults) >= MAX_FAULTS:
                break
        return _valid(rows, faults)

    def _present(self, names: Collection[str], pointer: str) -> None:
        missing = [column for column in self.columns if column.required and column.name not in names]
        if missing:
            faults = [Fault(f"is missing; must be {c.expected}", f"{pointer}/{_escape(c.name)}") for c in missing]
            shown = ", ".join(repr(column.name) for column in missing[:MAX_FAULTS])
            raise SchemaMismatch(f"the model's required columns {shown} are missing", faults[:MAX_FAULTS])

    def _form(self, document: Mapping[str, object]) -> str | None:
        """The key that wraps the rows; a feature of the same name is a feature."""
        return next((key for key in ("instances", "features") if key in document and key not in self._names), None)

    def _many(self, instances: object, max_rows: int) -> Sequence[Row]:
        pointer = "#/instances"
        faults: list[Fault] = []
        rows = []
        for i, instance in enumerate(_some(instances, pointer, max_rows)):
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
        if len(value) != len(row) - row.count(_MISSING) and self.policy is Policy.STRICT:
            unknown = islice((name for name in value if name not in self._names), MAX_FAULTS)
            faults.extend(Fault("is not a feature of this model", f"{pointer}/{_escape(name)}") for name in unknown)
        self._check(row, self._names, pointer, faults)
        return row

    def _listed(self, value: object, pointer: str, faults: list[Fault]) -> list[object]:
        if not isinstance(value, list) or len(value) != len(self.columns):
            got = f"{len(value)} values" if isinstance(value, list) else show(value)
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
            if self.policy is Policy.LENIENT and column.accepts(made := cast(column, value)):
                row[i] = made
                continue
            if value is not _MISSING:
                faults.append(Fault(mismatch(column, value), f"{pointer}/{_escape(key)}"))
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


def check_count(rows: int, pointer: str, max_rows: int) -> None:
    """A request may not have more rows than this.

    Raises:
        InvalidRows: it has.
    """
    if rows > max_rows:
        raise _invalid([Fault(f"must have at most {max_rows} rows, got {rows}", pointer)])


def _some(rows: object, pointer: str, max_rows: int) -> Sequence[Any]:
    """At least one row, and not too many."""
    if not isinstance(rows, list) or not rows:
        raise _invalid([Fault(f"must be a list of at least one row, got {show(rows)}", pointer)])
    check_count(len(rows), pointer, max_rows)
    return rows


def _valid(rows: Sequence[Row], faults: Sequence[Fault]) -> Sequence[Row]:
    if faults:
        raise _invalid(faults)
    return rows


def _invalid(faults: Sequence[Fault]) -> InvalidRows:
    shown = faults[:MAX_FAULTS]
    first = shown[0]
    place = "the body" if first.pointer == "#" else unquote(first.pointer.removeprefix("#/")).replace("/", ".")
    more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
    return InvalidRows(f"{place} {first.detail}{more}", shown)


def _escape(key: object) -> str:
    """A key as a token of a JSON pointer in a URI fragment (RFC 6901, section 6), cut short where it is long."""
    return quote(str(key)[:100].replace("~", "~0").replace("/", "~1"), safe="!$&'()*+,;=:@~")
