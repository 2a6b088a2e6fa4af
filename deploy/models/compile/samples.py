"""Rows to check a compiled model on: from a file, or drawn across the splits of its own trees."""

from __future__ import annotations

import lzma
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deploy.errors import CommandError
from server.engines import kernel
from server.engines.packed import Feature, PackedForest
from server.errors import InvalidRows
from server.inference.columns import Column
from server.inference.rows import Row, Rows
from server.inference.schema import InputSchema

DRAWN = 4096

_UNREADABLE = (
    OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pd.errors.ParserWarning,
)  # fmt: skip


def from_file(path: Path, schema: InputSchema) -> Rows:
    """The rows of a CSV, as :func:`documents` reads them."""
    return schema.to_rows(documents(path, schema))


def documents(path: Path, schema: InputSchema) -> Sequence[Row]:
    """The rows of a CSV, compressed or not, whose header has the schema's columns; others are ignored.

    Raises:
        CommandError: it cannot be read, or a column or a value is not one of the schema's.
    """
    frame = _read(path, schema)
    if absent := [name for name in schema.names if name not in frame.columns]:
        raise CommandError(f"DATA={path}: there is no column {absent[0]!r}; expected {', '.join(schema.names)}")
    columns = {column.name: _values(frame[column.name], column) for column in schema.columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    try:
        return schema.parse({"instances": rows}, len(rows)).values
    except InvalidRows as error:
        raise CommandError(f"DATA={path}: counting rows from 0, {error.detail.removeprefix('instances.')}") from None


def _read(path: Path, schema: InputSchema) -> pd.DataFrame:
    strings = {column.name: str for column in schema.columns if column.is_string}
    try:
        with warnings.catch_warnings():
            # A row longer than its header would lose its last cells with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, index_col=False, dtype=strings, low_memory=False, na_filter=not strings)
    except _UNREADABLE as error:
        raise CommandError(f"DATA={path}: cannot be read as CSV: {' '.join(str(error).split())}") from None


def _values(series: pd.Series[Any], column: Column) -> list[object]:
    """A column's cells as JSON would bring them: numbers where they are numbers, and None where there is nothing."""
    if column.is_string or series.dtype == np.bool_:
        return list(series.tolist())
    numbers = pd.to_numeric(series, errors="coerce")
    cells = zip(series.tolist(), numbers.tolist(), numbers.isna(), strict=True)
    return [(None if _is_empty(cell) else cell) if bad else number for cell, number, bad in cells]


def _is_empty(cell: object) -> bool:
    return cell is None or cell == "" or cell != cell  # noqa: PLR0124  (NaN)


def drawn(schema: InputSchema, example: Rows, forest: PackedForest | None, count: int = DRAWN) -> Rows:
    """The example, and rows drawn at random, within the columns' ranges.

    Those for a forest have values on both sides of the trees' splits, which is where a mistake would show; for another
    model, what a column may hold is guessed from its range or from the example.
    """
    rng = np.random.default_rng(0)
    numbers = [column for column in schema.columns if not column.is_string]
    values = np.empty((count, len(numbers)))
    for place, column in enumerate(numbers):
        values[:, place] = rng.choice(_numbers(forest, place, column, example.numbers[0, place], rng), count)
    objects = np.empty((count, example.objects.shape[1]), dtype=np.object_)
    for place in range(objects.shape[1]):
        choices = _strings(forest, len(numbers), place, str(example.objects[0, place]))
        objects[:, place] = [choices[i] for i in rng.integers(len(choices), size=count)]
    rows = Rows(values, objects)
    return Rows.concatenate([example, rows]) if _is_answered(forest, example) else rows


def _numbers(
    forest: PackedForest | None, place: int, column: Column, typical: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Values that a column of numbers may have."""
    if column.type == "boolean":
        return np.array([0.0, 1.0])
    if known := _known(forest, place):
        return np.array(known)
    if forest is not None:
        features = enumerate(forest.features)
        around = [_around(forest, index, feature) for index, feature in features if feature.column == place]
        values = np.concatenate([[typical], *around])
    elif column.has_range:
        values = rng.uniform(column.low, column.high, DRAWN)
    else:
        values = typical + rng.normal(0, max(abs(typical), 1.0), DRAWN)
    if column.is_integer:
        values = np.concatenate([np.floor(values), np.floor(values) + 1])
    valid = np.unique(values[(values >= column.low) & (values <= column.high)])
    return valid if len(valid) else np.array([typical])


def _around(forest: PackedForest, index: int, feature: Feature) -> NDArray[np.float64]:
    if feature.kind == kernel.EQUALS:  # and, as like as not, a category that is unknown
        return np.array([feature.first, feature.first + 1])
    splits = _thresholds(forest, index).astype(np.float64)
    with np.errstate(over="ignore"):
        if feature.kind == kernel.SHIFT_DIVIDE:
            splits = splits * feature.second + feature.first
        if feature.kind == kernel.MULTIPLY_ADD:
            splits = (splits - feature.second) / feature.first if feature.first else np.empty(0)
        beyond = np.nextafter(splits.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    return np.concatenate([splits, beyond])


def _thresholds(forest: PackedForest, index: int) -> NDArray[np.float32]:
    """Where the trees split the feature with this index."""
    mask = (1 << forest.bits) - 1
    chosen = (np.asarray(forest.nodes[:, 1]) & forest.nodes.dtype.type(mask)) == index
    words = np.ascontiguousarray(forest.nodes[chosen, 0]).astype(np.uint32)
    return np.unique(words.view(np.float32))


def _strings(forest: PackedForest | None, numbers: int, place: int, typical: str) -> list[str]:
    """Values of a column of strings: each category, and an unknown one where that is allowed."""
    if forest is None:
        return [typical]
    categories = [*forest.codes[place]]
    return categories if _known(forest, numbers + place) else [*categories, typical, "a category that nobody has seen"]


def _known(forest: PackedForest | None, column: int) -> list[float]:
    """The categories of a column that must have one of them; none if it may have any value."""
    features = forest.features if forest else ()
    return sorted(f.first for f in features if f.column == column and f.kind == kernel.EQUALS_KNOWN)


def _is_answered(forest: PackedForest | None, row: Rows) -> bool:
    """Whether a row has known categories wherever the model insists on them."""
    if forest is None:
        return True
    strings = [codes.get(str(value), -1) for codes, value in zip(forest.codes, row.objects[0], strict=False)]
    values = [*row.numbers[0], *strings]
    return all(not (known := _known(forest, i)) or value in known for i, value in enumerate(values))
