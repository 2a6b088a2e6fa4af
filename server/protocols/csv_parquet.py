"""Readers of CSV and Parquet bodies."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from io import BytesIO, StringIO
from typing import Any

from server.errors import InvalidBody, RequestError, first_line
from server.inference.columns import Column
from server.inference.faults import check_row_count
from server.inference.schema import Form, InputSchema, RowTable

# The default na_values of pandas.read_csv, with which MLflow's server reads CSV.
_MISSING = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip
# The limit on the uncompressed size of a Parquet file: 4,096 rows of 1,000 numbers fit.
_MAX_UNCOMPRESSED_BYTES = 2**26
_TEXT_TYPES = ("string", "datetime", "binary")
_BOOLEANS = {"true": True, "false": False}


def read_csv(body: bytes, schema: InputSchema, max_rows: int) -> RowTable:
    """Return the rows of a CSV body (RFC 4180) in UTF-8, with each cell converted to its column's type if possible.

    Columns unknown to the model are skipped, because a wide header over short rows would need a thousand times the
    memory of the body.

    Raises:
        InvalidBody: the body is not CSV with a header line.
        InvalidRows: there are too many rows.
    """
    header, *lines = _lines(body)
    check_row_count(len(lines), "#", max_rows)
    for i, line in enumerate(lines):
        if len(line) > len(header):
            raise InvalidBody(f"row {i + 1} of the CSV must have at most {len(header)} values, got {len(line)}")
    # The first of two columns with the same name counts.
    known = _known_columns(header, schema)
    columns = [_cells(column, [line[j] if j < len(line) else "" for line in lines]) for j, column in known]
    rows = [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in lines]
    names = [column.name for _, column in known]
    return RowTable(names, rows, "#", lambda i, j: f"#/row {i + 1}/{names[j]}")


def _known_columns(names: Sequence[str], schema: InputSchema) -> list[tuple[int, Column]]:
    """Return the model's columns with their positions in a table; all of the table's if the model names none."""
    if schema.form is Form.RECORDS:
        return [(j, Column(name, "any")) for j, name in enumerate(names)]
    position = {name: j for j, name in reversed([*enumerate(schema.matching_names(names))])}
    return [(position[column.name], column) for column in schema.columns if column.name in position]


def _lines(body: bytes) -> list[list[str]]:
    try:
        text = body.decode("utf-8-sig")
        lines = [line for line in csv.reader(StringIO(text, newline=""), strict=True) if line]
    except UnicodeDecodeError as error:
        raise InvalidBody(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise InvalidBody(f"the body is not CSV: {error}") from None
    if not lines:
        raise InvalidBody("the body is empty; expected CSV with a header line")
    return lines


def _cells(column: Column, texts: Sequence[str]) -> Sequence[object]:
    """Return the values of a column's cells; without a type, they all get the type that pandas would find for them."""
    if column.type != "any":
        return [_cell(column, text) for text in texts]
    cells = [None if text.strip() in _MISSING else text for text in texts]
    present = [text for text in cells if text is not None]
    if present and all(text.lower() in _BOOLEANS for text in present):
        return [None if text is None else _BOOLEANS[text.lower()] for text in cells]
    if not all(text.isascii() and "_" not in text for text in present):  # Python would read a number
        return cells
    for number_type in (int, float) if len(present) == len(cells) else (float,):
        with contextlib.suppress(ValueError):
            return [None if text is None else number_type(text) for text in cells]
    return cells


def _cell(column: Column, text: str) -> object:
    """Return None for a missing value, a bool or an int if the column's type says so, and the text otherwise."""
    if text.strip() in _MISSING:
        return None
    if column.type in _TEXT_TYPES:
        return text
    stripped = text.strip().lower()
    if stripped in _BOOLEANS:
        return _BOOLEANS[stripped]
    if column.type == "boolean" and stripped in ("0", "1"):
        return stripped == "1"
    return _int_or_text(stripped) if column.is_integer else text


def _int_or_text(text: str) -> object:
    """Return 3 for 3.0 and 1000 for 1e3. Other text stays as it is, and validation rejects it if it is not a number."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if not text.strip("+-").isdigit() and number.is_integer() else text


def can_read_parquet() -> bool:
    """Return whether pyarrow, which reads Parquet, is installed."""
    return find_spec("pyarrow") is not None


def read_parquet(body: bytes, schema: InputSchema, max_rows: int) -> RowTable:
    """Return the rows of a Parquet body; only the model's columns are read.

    Raises:
        InvalidBody: the body is not Parquet, or its uncompressed size is over the limit.
        InvalidRows: there are too many rows.
    """
    try:
        lists = _read_columns(body, schema, max_rows)
    except RequestError:
        raise
    except Exception as error:  # pyarrow raises many types for a broken file: OverflowError, IndexError, ..
        raise InvalidBody(f"the body is not Parquet: {first_line(error)[:100]}") from None
    names = list(lists)
    rows = list(zip(*lists.values(), strict=True))
    return RowTable(names, rows, "#", lambda i, j: f"#/row {i + 1}/{names[j]}")


def _read_columns(body: bytes, schema: InputSchema, max_rows: int) -> dict[str, list[object]]:
    """Return the values of each column. Sizes are checked first: a few kilobytes can expand to gigabytes."""
    # Imported here because a worker whose engine does not load pandas need not load pyarrow either.
    from pyarrow import parquet  # noqa: PLC0415

    metadata = parquet.read_metadata(BytesIO(body))
    check_row_count(metadata.num_rows, "#", max_rows)
    _check_size(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    paths = {metadata.schema.column(i).path for i in range(metadata.num_columns)}
    # With dictionary encoding, a string that many rows share is in memory once.
    strings = [column.name for column in schema.columns if column.is_string and column.name in paths]
    file = parquet.ParquetFile(BytesIO(body), read_dictionary=strings)
    names = [file.schema_arrow.names[j] for j, _ in _known_columns(file.schema_arrow.names, schema)]
    table = file.read(columns=names, use_threads=False)
    lists = {name: _values(table.column(name)) for name in names}
    _check_size(len(value) for values in lists.values() for value in values if isinstance(value, str))
    return lists


def _check_size(parts: Iterable[int]) -> None:
    size = sum(parts)
    if size > _MAX_UNCOMPRESSED_BYTES:
        raise InvalidBody(
            f"the Parquet file has an uncompressed size of {size} bytes; expected at most {_MAX_UNCOMPRESSED_BYTES}"
        )


def _values(column: Any) -> list[object]:
    """Return a column's values, with None for null and for NaN."""
    values: list[object] = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            dictionary = [*chunk.dictionary.to_pylist(), None]
            values += [dictionary[-1 if index is None else index] for index in chunk.indices.to_pylist()]
        else:
            values += [value if value == value else None for value in chunk.to_pylist()]  # noqa: PLR0124  (NaN)
    return values
