"""The input schema of a model, from its MLflow signature and the ranges in its metadata, and the parsing of rows.

Engines accept only :class:`Rows`, which this module creates, so nothing is validated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from server.errors import Fault, InvalidRows, ModelError, SchemaMismatch
from server.inference.columns import Column, Policy, cast, describe_mismatch, parse_column, show
from server.inference.rows import Row, Rows

# The most faults that one answer lists: enough to fix a client, and too few for an amplification attack.
MAX_FAULTS = 20

_MISSING = object()


class ParsedRequest(NamedTuple):
    """The valid rows of a request, and whether it asked for several rows (``instances``) or for one."""

    values: Sequence[Row]
    has_instances: bool


@dataclass(frozen=True, slots=True)
class RowTable:
    """Rows as lists of equal length, one value for each of ``names``.

    ``pointer`` is the JSON pointer of the rows in the request; ``value_pointer`` returns that of the value at a row's
    and a column's index.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[object]]
    pointer: str
    value_pointer: Callable[[int, int], str]


@dataclass(frozen=True)
class InputSchema:
    """The columns of a model, in the order of its signature."""

    columns: tuple[Column, ...]
    policy: Policy = Policy.STRICT
    _names: tuple[str, ...] = field(init=False, repr=False)
    _number_indices: tuple[int, ...] = field(init=False, repr=False)
    _string_indices: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        indices = range(len(self.columns))
        object.__setattr__(self, "_names", tuple(column.name for column in self.columns))
        object.__setattr__(self, "_number_indices", tuple(i for i in indices if not self.columns[i].is_string))
        object.__setattr__(self, "_string_indices", tuple(i for i in indices if self.columns[i].is_string))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in the signature's order."""
        return self._names

    @classmethod
    def from_signature(
        cls,
        inputs: Sequence[Mapping[str, Any]] | None,
        ranges: Mapping[str, Any],
        observed: Mapping[str, Any] | None = None,
    ) -> InputSchema:
        """Create the schema of an MLflow signature's ``inputs`` and the ranges ``{name: [low, high]}`` of the metadata.

        ``ranges`` are enforced; ``observed`` are those of the training data, which refuse no value.

        Raises:
            ModelError: there is no column signature, a column has a type that is not served, or a range is malformed.
        """
        observed = {} if observed is None else observed
        if not inputs:
            raise ModelError("the model has no signature; log it with signature=infer_signature(...) on a DataFrame")
        for noun, limits in (("ranges", ranges), ("observed ranges", observed)):
            if not isinstance(limits, Mapping):
                raise ModelError(f"the model's metadata has the {noun} {limits!r}; expected {{name: [low, high]}}")
        columns = tuple(parse_column(i, spec, ranges, observed) for i, spec in enumerate(inputs))
        names = {column.name for column in columns}
        if len(names) < len(columns):
            raise ModelError("the model's signature names a column twice; expected every name once")
        if unknown := sorted((set(ranges) | set(observed)) - names):
            raise ModelError(f"the model's metadata has a range for {unknown[0]!r}, which is not one of its columns")
        return cls(columns)

    def parse(self, document: object, max_rows: int) -> ParsedRequest:
        """Parse the JSON document of a request to ``/predict``: features by name, ``features`` or ``instances``.

        Raises:
            InvalidRows: the document is invalid; the error names up to ``MAX_FAULTS`` faults with their JSON pointers.
        """
        if not isinstance(document, dict):
            raise _invalid_rows([Fault(f"must be an object, got {show(document)}", "#")])
        wrapper = self._wrapper_key(document)
        if wrapper is not None and len(document) > 1:
            extra = islice((name for name in document if name != wrapper), MAX_FAULTS)
            raise _invalid_rows([Fault(f"is not expected beside {wrapper!r}", f"#/{_escape(name)}") for name in extra])
        if wrapper == "instances":
            return ParsedRequest(self._parse_instances(document["instances"], max_rows), has_instances=True)
        faults: list[Fault] = []
        if wrapper is None:
            row = self._parse_row(document, "#", faults)
        else:
            row = self._parse_list(document[wrapper], "#/features", faults)
        return ParsedRequest(_refuse_faults([row], faults), has_instances=False)

    def lenient(self) -> InputSchema:
        """Return the same columns under MLflow's lenient policy and without ranges, which MLflow does not have."""
        return InputSchema(tuple(column.without_range() for column in self.columns), Policy.LENIENT)

    def parse_records(self, records: object, pointer: str, max_rows: int) -> Sequence[Row]:
        """Parse a list of objects, each a row by name.

        Raises:
            SchemaMismatch: a required column is missing from all objects.
            InvalidRows: the rows are invalid in another way.
        """
        faults: list[Fault] = []
        rows = []
        for i, record in enumerate(records := _require_rows(records, pointer, max_rows)):
            if isinstance(record, dict):
                rows.append(self._parse_object(record, f"{pointer}/{i}", faults))
            else:
                faults.append(Fault(f"must be an object of columns by name, got {show(record)}", f"{pointer}/{i}"))
            if len(faults) >= MAX_FAULTS:
                break
        if faults:
            self._require_columns({name for record in records if isinstance(record, dict) for name in record}, pointer)
        return _refuse_faults(rows, faults)

    def parse_table(self, table: RowTable, max_rows: int) -> Sequence[Row]:
        """Parse the rows of a table, whose columns may be in any order; ignore columns that the model does not have.

        Raises:
            SchemaMismatch: a required column is missing.
            InvalidRows: the rows are invalid in another way.
        """
        index_of = {name: index for index, name in reversed([*enumerate(table.names)])}
        self._require_columns(index_of, table.pointer)
        indices = [index_of.get(name) for name in self._names]
        faults: list[Fault] = []
        rows = []
        for i, values in enumerate(_require_rows(table.rows, table.pointer, max_rows)):
            row = [_MISSING if index is None else values[index] for index in indices]
            rows.append(row)
            row_faults: list[Fault] = []
            self._check(row, indices, "", row_faults)
            faults += [Fault(fault.detail, table.value_pointer(i, int(fault.pointer[1:]))) for fault in row_faults]
            if len(faults) >= MAX_FAULTS:
                break
        return _refuse_faults(rows, faults)

    def _require_columns(self, names: Collection[str], pointer: str) -> None:
        missing = [column for column in self.columns if column.required and column.name not in names]
        if missing:
            faults = [Fault(f"is missing; must be {c.expected}", f"{pointer}/{_escape(c.name)}") for c in missing]
            shown = ", ".join(repr(column.name) for column in missing[:MAX_FAULTS])
            raise SchemaMismatch(f"the model's required columns {shown} are missing", faults[:MAX_FAULTS])

    def _wrapper_key(self, document: Mapping[str, object]) -> str | None:
        """Return the key that wraps the rows, or None. A feature of the model with the same name is not a wrapper."""
        return next((key for key in ("instances", "features") if key in document and key not in self._names), None)

    def _parse_instances(self, instances: object, max_rows: int) -> Sequence[Row]:
        pointer = "#/instances"
        faults: list[Fault] = []
        rows = []
        for i, instance in enumerate(_require_rows(instances, pointer, max_rows)):
            rows.append(self._parse_row(instance, f"{pointer}/{i}", faults))
            if len(faults) >= MAX_FAULTS:
                break
        return _refuse_faults(rows, faults)

    def _parse_row(self, value: object, pointer: str, faults: list[Fault]) -> list[object]:
        if isinstance(value, dict):
            return self._parse_object(value, pointer, faults)
        return self._parse_list(value, pointer, faults)

    def _parse_object(self, value: dict[str, object], pointer: str, faults: list[Fault]) -> list[object]:
        row = [value.get(name, _MISSING) for name in self._names]
        if len(value) != len(row) - row.count(_MISSING) and self.policy is Policy.STRICT:
            unknown = islice((name for name in value if name not in self._names), MAX_FAULTS)
            faults.extend(Fault("is not a feature of this model", f"{pointer}/{_escape(name)}") for name in unknown)
        self._check(row, self._names, pointer, faults)
        return row

    def _parse_list(self, value: object, pointer: str, faults: list[Fault]) -> list[object]:
        if not isinstance(value, list) or len(value) != len(self.columns):
            got = f"{len(value)} values" if isinstance(value, list) else show(value)
            alternative = "" if pointer == "#/features" else " or an object of features by name"
            faults.append(Fault(f"must be a list of {len(self.columns)} values{alternative}, got {got}", pointer))
            return []
        row = list(value)
        self._check(row, range(len(row)), pointer, faults)
        return row

    def _check(self, row: list[object], keys: Iterable[object], pointer: str, faults: list[Fault]) -> None:
        """Add the faults of a row to ``faults``, convert its values if lenient, and set missing optional ones to None.

        ``keys`` are the last parts of the values' JSON pointers.
        """
        for i, (column, key) in enumerate(zip(self.columns, keys, strict=True)):
            value = row[i]
            if column.accepts(value):
                continue
            if self.policy is Policy.LENIENT and column.accepts(converted := cast(column, value)):
                row[i] = converted
                continue
            if value is not _MISSING:
                faults.append(Fault(describe_mismatch(column, value), f"{pointer}/{_escape(key)}"))
            elif column.required:
                faults.append(Fault(f"is missing; must be {column.expected}", f"{pointer}/{_escape(key)}"))
            else:
                row[i] = None

    def to_rows(self, values: Sequence[Row]) -> Rows:
        """Return valid rows as the arrays that engines take; called once for all rows of a batch."""
        if not self._string_indices:
            return Rows(np.array(values, dtype=np.float64), np.empty((len(values), 0), dtype=np.object_))
        return Rows(
            np.array([[row[i] for i in self._number_indices] for row in values], dtype=np.float64),
            np.array([[row[i] for i in self._string_indices] for row in values], dtype=np.object_),
        )


def check_row_count(rows: int, pointer: str, max_rows: int) -> None:
    """Refuse a request with too many rows.

    Raises:
        InvalidRows: there are more than ``max_rows`` rows.
    """
    if rows > max_rows:
        raise _invalid_rows([Fault(f"must have at most {max_rows} rows, got {rows}", pointer)])


def _require_rows(rows: object, pointer: str, max_rows: int) -> Sequence[Any]:
    """Return a list of 1 to ``max_rows`` rows, or raise InvalidRows if ``rows`` is not one."""
    if not isinstance(rows, list) or not rows:
        raise _invalid_rows([Fault(f"must be a list of at least one row, got {show(rows)}", pointer)])
    check_row_count(len(rows), pointer, max_rows)
    return rows


def _refuse_faults(rows: Sequence[Row], faults: Sequence[Fault]) -> Sequence[Row]:
    if faults:
        raise _invalid_rows(faults)
    return rows


def _invalid_rows(faults: Sequence[Fault]) -> InvalidRows:
    shown = faults[:MAX_FAULTS]
    first = shown[0]
    location = "the body" if first.pointer == "#" else unquote(first.pointer.removeprefix("#/")).replace("/", ".")
    more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
    return InvalidRows(f"{location} {first.detail}{more}", shown)


def _escape(key: object) -> str:
    """Return a key as a token of a JSON pointer in a URI fragment (RFC 6901, section 6), truncated if it is long."""
    return quote(str(key)[:100].replace("~", "~0").replace("/", "~1"), safe="!$&'()*+,;=:@~")
