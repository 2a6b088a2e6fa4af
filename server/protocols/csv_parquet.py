"""Tables that are no JSON: CSV, and Parquet where pandas is in memory anyway."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from io import BytesIO, StringIO
from typing import Any

from server.errors import InvalidBody, RequestError, first_line
from server.inference.columns import Column
from server.inference.schema import RowTable, check_count

# What pandas.read_csv takes for a missing value (its na_values), as MLflow's server does.
_MISSING = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip
# The most bytes that a Parquet file may have when it is unpacked: 4,096 rows of 1,000 numbers fit.
_MOST_UNPACKED = 2**26
_BOOLEANS = {"true": True, "false": False}


def read_csv(body: bytes, columns: Sequence[Column], max_rows: int) -> RowTable:
    """A header line and rows (RFC 4180), in UTF-8; each cell is read as its column's type asks, where it can be.

    Columns that the model has not are not read: a wide header over short rows would take a thousand times the body.

    Raises:
        InvalidBody: it is no such table.
        InvalidRows: it has too many rows.
    """
    header, *lines = _lines(body)
    check_count(len(lines), "#", max_rows)
    for i, line in enumerate(lines):
        if len(line) > len(header):
            raise InvalidBody(f"row {i + 1} of the CSV has {len(line)} values, its header has {len(header)}")
    where = {name: place for place, name in reversed([*enumerate(header)])}
    known = [(where[column.name], column) for column in columns if column.name in where]
    rows = [[_cell(column, line[j]) if j < len(line) else None for j, column in known] for line in lines]
    names = [column.name for _, column in known]
    return RowTable(names, rows, "#", lambda i, j: f"#/row {i + 1}/{names[j]}")


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


def _cell(column: Column, text: str) -> object:
    """What a cell holds: None where it is empty, a boolean's word, a whole number that has a point; else its text."""
    if text.strip() in _MISSING:
        return None
    if column.is_string:
        return text
    word = text.strip().lower()
    if word in _BOOLEANS:
        return _BOOLEANS[word]
    if column.type == "boolean" and word in ("0", "1"):
        return word == "1"
    return _whole(word) if column.is_whole else text


def _whole(text: str) -> object:
    """3.0 and 1e3 are whole numbers in CSV; 3.5 stays text, which is refused."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if not text.strip("+-").isdigit() and number.is_integer() else text


def parquet_is_read() -> bool:
    """Whether what pandas reads Parquet with is installed."""
    return find_spec("pyarrow") is not None


def read_parquet(body: bytes, columns: Sequence[Column], max_rows: int) -> RowTable:
    """A Parquet file, of which only the model's columns are read.

    Raises:
        InvalidBody: it is none, or is too large when it is unpacked.
        InvalidRows: it has too many rows.
    """
    try:
        lists = _unpacked(body, columns, max_rows)
    except RequestError:
        raise
    except Exception as error:  # whatever a broken file makes of its reader: OverflowError, IndexError, ..
        raise InvalidBody(f"the body is not Parquet: {first_line(error)[:100]}") from None
    names = list(lists)
    rows = list(zip(*lists.values(), strict=True))
    return RowTable(names, rows, "#", lambda i, j: f"#/row {i + 1}/{names[j]}")


def _unpacked(body: bytes, columns: Sequence[Column], max_rows: int) -> dict[str, list[object]]:
    """The values of each column. A file of a few kilobytes may say that it has millions of rows, or gigabytes."""
    # Imported here, in a worker: only asked for where the engine brings pandas along.
    from pyarrow import parquet  # noqa: PLC0415

    metadata = parquet.read_metadata(BytesIO(body))
    check_count(metadata.num_rows, "#", max_rows)
    _check_size(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    paths = {metadata.schema.column(i).path for i in range(metadata.num_columns)}
    # Words and their numbers: a word that many rows have is in memory once.
    words = [column.name for column in columns if column.is_string and column.name in paths]
    file = parquet.ParquetFile(BytesIO(body), read_dictionary=words)
    names = [column.name for column in columns if column.name in file.schema_arrow.names]
    found = file.read(columns=names, use_threads=False)
    lists = {name: _values(found.column(name)) for name in names}
    _check_size(len(value) for values in lists.values() for value in values if isinstance(value, str))
    return lists


def _check_size(parts: Iterable[int]) -> None:
    size = sum(parts)
    if size > _MOST_UNPACKED:
        raise InvalidBody(f"the Parquet file has {size} bytes when it is unpacked, more than {_MOST_UNPACKED}")


def _values(column: Any) -> list[object]:
    """A column's values; None for NaN, as pandas has it."""
    values: list[object] = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            words = [*chunk.dictionary.to_pylist(), None]
            values += [words[-1 if place is None else place] for place in chunk.indices.to_pylist()]
        else:
            values += [value if value == value else None for value in chunk.to_pylist()]  # noqa: PLR0124  (NaN)
    return values
