"""Tables that are no JSON: CSV, and Parquet where pandas is in memory anyway."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO, StringIO

from server.columns import Column
from server.errors import BadForm
from server.schema import Table

# What pandas.read_csv takes for a missing value (its na_values), as MLflow's server does.
_MISSING = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip
_BOOLEANS = {"true": True, "false": False}


def read_csv(body: bytes, columns: Sequence[Column]) -> Table:
    """A header line and rows (RFC 4180), in UTF-8; each cell is read as its column's type asks, where it can be.

    Raises:
        BadForm: it is no such table.
    """
    header, *lines = _lines(body)
    known = {column.name: column for column in columns}
    kinds = [known.get(name) for name in header]
    rows = [_row(i, line, kinds) for i, line in enumerate(lines)]
    return Table(header, rows, "#", lambda i, j: f"#/row {i + 1}/{header[j]}")


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


def _row(place: int, line: Sequence[str], kinds: Sequence[Column | None]) -> list[object]:
    short = len(kinds) - len(line)
    if short < 0:
        raise BadForm(f"row {place + 1} of the CSV has {len(line)} values, its header has {len(kinds)}")
    return [_cell(kind, text) for kind, text in zip(kinds, [*line, *[""] * short], strict=True)]


def _cell(column: Column | None, text: str) -> object:
    """What a cell holds: None where it is empty, a boolean's word, a whole number that has a point; else its text."""
    if column is None:
        return text
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


def read_parquet(body: bytes) -> Table:
    """A Parquet file.

    Raises:
        BadForm: it is none, or has values that are no numbers, booleans or text.
    """
    # Imported here, in a worker: only asked for where the engine brings pandas along.
    import pandas as pd  # noqa: PLC0415

    try:
        frame = pd.read_parquet(BytesIO(body))
    except Exception as error:
        raise BadForm(f"the body is not Parquet: {(str(error).splitlines() or [''])[0][:200]}") from None
    names = [str(name) for name in frame.columns]
    lists = [[None if pd.isna(value) else value for value in frame[name].tolist()] for name in frame.columns]
    rows = [list(row) for row in zip(*lists, strict=True)]
    return Table(names, rows, "#", lambda i, j: f"#/row {i + 1}/{names[j]}")
