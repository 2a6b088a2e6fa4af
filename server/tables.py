"""Tables that are no JSON: CSV, and Parquet where pandas is in memory anyway."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO, StringIO
from typing import Any

from server.columns import Column
from server.errors import BadForm
from server.schema import Table

# What pandas.read_csv takes for a missing value (its na_values), as MLflow's server does.
_MISSING = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip
# Of a Parquet file, without its compression.
_MOST_BYTES = 2**25
_BOOLEANS = {"true": True, "false": False}


def read_csv(body: bytes, columns: Sequence[Column], max_rows: int) -> Table:
    """A header line and rows (RFC 4180), in UTF-8; each cell is read as its column's type asks, where it can be.

    Columns that the model has not are not read: a wide header over short rows would take a thousand times the body.

    Raises:
        BadForm: it is no such table.
    """
    header, *lines = _lines(body)
    if len(lines) > max_rows:
        raise BadForm(f"the CSV must have at most {max_rows} rows, got {len(lines)}")
    for i, line in enumerate(lines):
        if len(line) > len(header):
            raise BadForm(f"row {i + 1} of the CSV has {len(line)} values, its header has {len(header)}")
    known = [(header.index(column.name), column) for column in columns if column.name in header]
    rows = [[_cell(column, line[j]) if j < len(line) else None for j, column in known] for line in lines]
    names = [column.name for _, column in known]
    return Table(names, rows, "#", lambda i, j: f"#/row {i + 1}/{names[j]}")


def _lines(body: bytes) -> list[list[str]]:
    try:
        text = body.decode("utf-8-sig")
        lines = [line for line in csv.reader(StringIO(text, newline=""), strict=True) if line]
    except UnicodeDecodeError as error:
        raise BadForm(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise BadForm(f"the body is not CSV: {error}") from None
    if not lines:
        raise BadForm("the body is empty; expected CSV with a header line")
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


def read_parquet(body: bytes, columns: Sequence[Column], max_rows: int) -> Table:
    """A Parquet file; as much of it as the model has columns for.

    Raises:
        BadForm: it is none, or would be too large in memory: files of constants are small.
    """
    # Imported here, in a worker: only asked for where the engine brings pandas along, which does the same.
    from pyarrow import ArrowException  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    try:
        file = ParquetFile(BytesIO(body))
        _check_size(file.metadata, max_rows)
        names = [column.name for column in columns if column.name in file.schema_arrow.names]
        lists = [file.read(columns=[name]).column(0).to_pylist() for name in names]
    except (ArrowException, OSError, ValueError, IndexError) as error:
        raise BadForm(f"the body is not Parquet: {(str(error).splitlines() or [''])[0][:200]}") from None
    rows = [[None if value != value else value for value in row] for row in zip(*lists, strict=True)]  # noqa: PLR0124  (NaN)
    return Table(names, rows, "#", lambda i, j: f"#/row {i + 1}/{names[j]}")


def _check_size(metadata: Any, max_rows: int) -> None:
    if metadata.num_rows > max_rows:
        raise BadForm(f"the Parquet file must have at most {max_rows} rows, got {metadata.num_rows}")
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if size > _MOST_BYTES:
        raise BadForm(f"the Parquet file must have at most {_MOST_BYTES} bytes when it is read, got {size}")
