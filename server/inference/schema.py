"""The input schema of a model: its columns, the form of its input, and the parsing of rows.

Engines accept only :class:`Rows`, which this module creates, so nothing is validated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.errors import Fault, SchemaMismatch
from server.inference.columns import MISSING, Column, Policy, show
from server.inference.conversions import ValueMismatch, convert
from server.inference.faults import MAX_FAULTS, escape, invalid_rows, json_pointer, require_rows
from server.inference.rows import Row, Rows

# A float64 represents every whole number up to this one exactly.
_LARGEST_EXACT_INTEGER = 2**53
# The depth to which the values of nested lists are compared.
_MAX_DEPTH = 8


class Form(Enum):
    """The form in which a model takes its rows.

    FRAME is a DataFrame. ARRAY is one NumPy array, in which a row is a list of values, a single value or a nested
    array. TENSORS is a dict with a NumPy array for each name. LIST is a list with one value for each row. RECORDS is a
    DataFrame or an array of columns that nothing describes, so that each row is one JSON value.
    """

    FRAME = "frame"
    ARRAY = "array"
    TENSORS = "tensors"
    LIST = "list"
    RECORDS = "records"


class ParsedRequest(NamedTuple):
    """The valid rows of a request, and whether it asked for several rows (``instances``) or for one.

    ``params`` are the inference parameters, as they are in the document, or None.
    """

    values: Sequence[Row]
    has_instances: bool
    params: object = None


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
    """The columns of a model, in the order of its signature, and the form of its input.

    ``is_flat`` is whether the rows of an array are single values, so that the array has one dimension.
    """

    columns: tuple[Column, ...]
    policy: Policy = Policy.STRICT
    form: Form = Form.FRAME
    is_flat: bool = False
    _names: tuple[str, ...] = field(init=False, repr=False)
    _number_indices: tuple[int, ...] = field(init=False, repr=False)
    _object_indices: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        indices = range(len(self.columns))
        object.__setattr__(self, "_names", tuple(column.name for column in self.columns))
        object.__setattr__(self, "_number_indices", tuple(i for i in indices if self.columns[i].is_number))
        object.__setattr__(self, "_object_indices", tuple(i for i in indices if not self.columns[i].is_number))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in the signature's order."""
        return self._names

    @cached_property
    def is_typed(self) -> bool:
        """Whether the model says of each column which values it takes."""
        return all(column.type != "any" for column in self.columns)

    @cached_property
    def is_loose(self) -> bool:
        """Whether the model may refuse rows that are valid here, because its signature says too little about them."""
        return any(column.is_loose for column in self.columns)

    @property
    def is_positional(self) -> bool:
        """Whether the columns have no names in the model, so that rows are usually lists."""
        return self.form in (Form.ARRAY, Form.LIST)

    @cached_property
    def takes_bare_values(self) -> bool:
        """Whether a row may be its only value, instead of a list or an object with that value."""
        return len(self.columns) == 1 and self.form is not Form.TENSORS

    @property
    def takes_value_lists(self) -> bool:
        """Whether MLflow's scoring protocol takes rows as lists of values: only without a column signature."""
        return self.form is not Form.TENSORS and (self.form is not Form.FRAME or not self.is_typed)

    @cached_property
    def is_nested(self) -> bool:
        """Whether the only value of a row is itself a list or an object."""
        type_name = self.columns[0].type
        is_any = type_name == "any" and self.form is Form.LIST
        return self.takes_bare_values and (is_any or type_name in ("tensor", "array", "object", "map"))

    def parse(self, document: object, max_rows: int) -> ParsedRequest:
        """Parse the JSON document of a request to ``/predict``: features by name, ``features`` or ``instances``.

        Raises:
            InvalidRows: the document is invalid; the error names up to ``MAX_FAULTS`` faults with their JSON pointers.
        """
        if not isinstance(document, dict):
            raise invalid_rows([Fault(f"must be an object, got {show(document)}", "#")])
        wrapper = self._wrapper_key(document)
        if wrapper is not None and len(document) > 1:
            extra = islice((name for name in document if name not in (wrapper, "params")), MAX_FAULTS)
            _refuse_faults((), [Fault(f"is not expected beside {wrapper!r}", f"#/{escape(name)}") for name in extra])
        params = document.get("params") if wrapper is not None else None
        if wrapper == "instances":
            values = self.parse_values(document["instances"], "#/instances", max_rows)
            return ParsedRequest(values, has_instances=True, params=params)
        faults: list[Fault] = []
        if wrapper is None:
            row = self._parse_row(document, "#", faults)
        else:
            row = self._parse_list(document[wrapper], "#/features", faults)
        return ParsedRequest(_refuse_faults([row], faults), has_instances=False, params=params)

    def lenient(self) -> InputSchema:
        """Return the same columns under MLflow's lenient policy and without ranges, which MLflow does not have.

        MLflow converts no values for a type hint, whose policy stays strict.
        """
        columns = tuple(column.without_range() for column in self.columns)
        policy = self.policy if self.form is Form.LIST else Policy.LENIENT
        return InputSchema(columns, policy, self.form, self.is_flat)

    def parse_values(self, values: object, pointer: str, max_rows: int) -> Sequence[Row]:
        """Parse a list of rows, each a list of values in the order of the columns, or its only value.

        Raises:
            InvalidRows: the rows are invalid.
        """
        faults: list[Fault] = []
        rows = []
        for i, value in enumerate(require_rows(values, pointer, max_rows)):
            rows.append(self._parse_row(value, f"{pointer}/{i}", faults))
            if len(faults) >= MAX_FAULTS:
                break
        return _refuse_faults(rows, faults)

    def parse_records(self, records: object, pointer: str, max_rows: int) -> Sequence[Row]:
        """Parse a list of objects, each a row by name.

        Raises:
            SchemaMismatch: a required column is missing from all objects.
            InvalidRows: the rows are invalid in another way.
        """
        faults: list[Fault] = []
        rows = []
        for i, record in enumerate(records := require_rows(records, pointer, max_rows)):
            if isinstance(record, dict):
                rows.append(self._parse_object(record, f"{pointer}/{i}", faults))
            else:
                faults.append(Fault(f"must be an object of columns by name, got {show(record)}", f"{pointer}/{i}"))
            if len(faults) >= MAX_FAULTS:
                break
        if faults and self.form is not Form.RECORDS:
            self._require_columns({name for record in records if isinstance(record, dict) for name in record}, pointer)
        return _refuse_faults(rows, faults)

    def parse_table(self, table: RowTable, max_rows: int) -> Sequence[Row]:
        """Parse the rows of a table, whose columns may be in any order; ignore columns that the model does not have.

        Raises:
            SchemaMismatch: a required column is missing.
            InvalidRows: the rows are invalid in another way.
        """
        if self.form is Form.RECORDS:
            rows = require_rows(table.rows, table.pointer, max_rows)
            return [[dict(zip(table.names, values, strict=True))] for values in rows]
        index_of = {name: index for index, name in reversed([*enumerate(self.matching_names(table.names))])}
        self._require_columns(index_of, table.pointer)
        indices = [index_of.get(name) for name in self._names]
        faults: list[Fault] = []
        rows = []
        for i, values in enumerate(require_rows(table.rows, table.pointer, max_rows)):
            row = [MISSING if index is None else values[index] for index in indices]
            rows.append(row)
            row_faults: list[Fault] = []
            self._check(row, indices, "", row_faults)
            for fault in row_faults:
                index, _, inner = fault.pointer[1:].partition("/")
                pointer = table.value_pointer(i, int(index)) + (f"/{inner}" if inner else "")
                faults.append(Fault(fault.detail, pointer))
            if len(faults) >= MAX_FAULTS:
                break
        return _refuse_faults(rows, faults)

    def matching_names(self, names: Sequence[str]) -> Sequence[str]:
        """Return the names of a table's columns, or the model's own names if its columns are only positions."""
        positions = self.is_positional and len(names) == len(self._names) and not set(names) & set(self._names)
        return self._names if positions else names

    def _require_columns(self, names: Collection[str], pointer: str) -> None:
        missing = [column for column in self.columns if column.required and column.name not in names]
        if missing and self.matching_names([*names]) is not self._names:
            faults = [Fault(f"is missing; must be {c.expected}", f"{pointer}/{escape(c.name)}") for c in missing]
            shown = ", ".join(repr(column.name) for column in missing[:MAX_FAULTS])
            raise SchemaMismatch(f"the model's required columns {shown} are missing", faults[:MAX_FAULTS])

    def _wrapper_key(self, document: Mapping[str, object]) -> str | None:
        """Return the key that wraps the rows, or None. A feature of the model with the same name is not a wrapper."""
        return next((key for key in ("instances", "features") if key in document and key not in self._names), None)

    def _parse_row(self, value: object, pointer: str, faults: list[Fault]) -> list[object]:
        if isinstance(value, dict) and not (self.is_nested and self._names[0] not in value):
            return self._parse_object(value, pointer, faults)
        return self._parse_list(value, pointer, faults)

    def _parse_object(self, value: dict[str, object], pointer: str, faults: list[Fault]) -> list[object]:
        if self.form is Form.RECORDS:
            return [value]
        if self.policy is Policy.LENIENT and self.is_positional and self.matching_names([*value]) is self._names:
            row: list[object] = [*value.values()]
            self._check(row, value, pointer, faults)
            return row
        row = [value.get(name, MISSING) for name in self._names]
        if len(value) != len(row) - row.count(MISSING) and self.policy is Policy.STRICT:
            unknown = islice((name for name in value if name not in self._names), MAX_FAULTS)
            faults.extend(Fault("is not a feature of this model", f"{pointer}/{escape(name)}") for name in unknown)
        self._check(row, self._names, pointer, faults)
        return row

    def _parse_list(self, value: object, pointer: str, faults: list[Fault]) -> list[object]:
        if self.form is Form.RECORDS:
            return [value]
        if self.takes_bare_values and (self.is_nested or not isinstance(value, list | dict)):
            row = [value]
            self._check(row, [None], pointer, faults)
            return row
        if not isinstance(value, list) or len(value) != len(self.columns):
            got = f"{len(value)} values" if isinstance(value, list) else show(value)
            alternative = "" if pointer == "#/features" else " or an object of features by name"
            count = f"{len(self.columns)} value{'s' if len(self.columns) > 1 else ''}"
            faults.append(Fault(f"must be a list of {count}{alternative}, got {got}", pointer))
            return []
        row = list(value)
        self._check(row, range(len(row)), pointer, faults)
        return row

    def _check(self, row: list[object], keys: Iterable[object], pointer: str, faults: list[Fault]) -> None:
        """Add the faults of a row to ``faults``, convert its values, and set missing optional ones to None.

        ``keys`` are the last parts of the values' JSON pointers; None for a value that is the row itself.
        """
        for i, (column, key) in enumerate(zip(self.columns, keys, strict=True)):
            value = row[i]
            if column.accepts(value):
                continue
            value_pointer = pointer if key is None else f"{pointer}/{escape(key)}"
            if value is not MISSING:
                try:
                    row[i] = convert(column, value, self.policy)
                except ValueMismatch as error:
                    faults.append(Fault(error.detail, json_pointer(value_pointer, *error.path)))
            elif column.required:
                faults.append(Fault(f"is missing; must be {column.expected}", value_pointer))
            else:
                row[i] = None

    def to_rows(self, values: Sequence[Row]) -> Rows:
        """Return valid rows as the arrays that engines take; called once for all rows of a batch."""
        if not self._object_indices:
            return Rows(np.array(values, dtype=np.float64), np.empty((len(values), 0), dtype=np.object_))
        return Rows(
            np.array([[row[i] for i in self._number_indices] for row in values], dtype=np.float64),
            _object_array(values, self._object_indices),
        )

    def value_kinds(self, values: Sequence[Row]) -> tuple[object, ...]:
        """Return what must be equal in two requests whose rows share one predict call.

        Columns without a type take the type of their values in the call. Requests with numbers are kept apart from
        those with text, so that a request is answered the same whether it shares the call or not.
        """
        if self.is_typed:
            return ()
        if self.form is Form.RECORDS:
            return tuple(dict.fromkeys(_record_kind(row[0]) for row in values))
        untyped = [i for i in self._object_indices if self.columns[i].type == "any"]
        return tuple(frozenset(_value_kind(row[i]) for row in values) for i in untyped)


def _value_kind(value: object) -> str:
    if type(value) is int and abs(value) > _LARGEST_EXACT_INTEGER:
        return "large number"  # beside a fraction it would be rounded
    return "number" if type(value) in (int, float) else type(value).__name__


def _record_kind(value: object, depth: int = 0) -> object:
    if isinstance(value, dict):
        return tuple((name, _value_kind(item)) for name, item in value.items())
    if isinstance(value, list):  # an array, whose values all have one type
        item_kinds = frozenset(_record_kind(item, depth + 1) for item in value) if depth < _MAX_DEPTH else None
        return len(value), item_kinds
    return _value_kind(value)


def _object_array(values: Sequence[Row], indices: Sequence[int]) -> NDArray[np.object_]:
    """Return the values at these indices, n x m. They are assigned one by one: NumPy would unpack lists and arrays."""
    array = np.empty((len(values), len(indices)), dtype=np.object_)
    for i, row in enumerate(values):
        for j, index in enumerate(indices):
            array[i, j] = row[index]
    return array


def _refuse_faults(rows: Sequence[Row], faults: Sequence[Fault]) -> Sequence[Row]:
    if faults:
        raise invalid_rows(faults)
    return rows
