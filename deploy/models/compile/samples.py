"""Rows to check a compiled model on: read from a CSV file, or drawn at random around the splits of its trees."""

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

DRAWN_ROWS = 4096
# Fewer rows are drawn for a model of more than a thousand columns: scikit-learn holds all values of the check at once.
_MAX_DRAWN_VALUES = 4_194_304
_FEWEST_DRAWN_ROWS = 256

# The errors of pandas and of the decompressors for a file that is missing, damaged or not a CSV.
_READ_ERRORS = (
    OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pd.errors.ParserWarning,
)  # fmt: skip


def read_csv(path: Path, schema: InputSchema) -> Rows:
    """Return the rows of a CSV file as the engines take them; see :func:`read_csv_rows`."""
    return schema.to_rows(read_csv_rows(path, schema))


def read_csv_rows(path: Path, schema: InputSchema) -> Sequence[Row]:
    """Return the validated rows of a CSV file, compressed or not. Columns that the schema lacks are ignored.

    Raises:
        CommandError: the file cannot be read, lacks a column, or has a value that the schema does not accept.
    """
    frame = _read_frame(path, schema)
    if missing := [name for name in schema.names if name not in frame.columns]:
        raise CommandError(f"DATA={path}: column {missing[0]!r} is missing; expected {', '.join(schema.names)}")
    columns = {column.name: _values(frame[column.name], column) for column in schema.columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    try:
        return schema.parse({"instances": rows}, len(rows)).values
    except InvalidRows as error:
        raise CommandError(f"DATA={path}: counting rows from 0, {error.detail.removeprefix('instances.')}") from None


def _read_frame(path: Path, schema: InputSchema) -> pd.DataFrame:
    string_columns = {column.name: str for column in schema.columns if column.is_string}
    try:
        with warnings.catch_warnings():
            # Of a row longer than the header pandas drops the last cells, and only warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path, index_col=False, dtype=string_columns, low_memory=False, na_filter=not string_columns
            )
    except _READ_ERRORS as error:
        raise CommandError(f"DATA={path}: cannot be read as CSV: {' '.join(str(error).split())}") from None


def _values(series: pd.Series[Any], column: Column) -> list[object]:
    """Return a column's cells as a JSON request would have them: numbers if possible, and None for an empty cell."""
    if column.is_string or series.dtype == np.bool_ or column.type in ("datetime", "binary"):
        return list(series.tolist())
    numbers = pd.to_numeric(series, errors="coerce")
    cells = zip(series.tolist(), numbers.tolist(), numbers.isna(), strict=True)
    return [(None if _is_empty(cell) else cell) if is_nan else number for cell, number, is_nan in cells]


def _is_empty(cell: object) -> bool:
    return cell is None or cell == "" or cell != cell  # noqa: PLR0124  (NaN)


def draw_rows(schema: InputSchema, example: Rows, forest: PackedForest | None, count: int = DRAWN_ROWS) -> Rows:
    """Return the example, and at most ``count`` rows drawn at random within the columns' ranges.

    Every call returns the same rows, and fewer of them for a model of more than a thousand columns.

    With a forest, values lie on both sides of each split, where a mistake would show. For another model they are drawn
    from what was observed in training or, without that, from the column's range or around the example. The example is
    left out if the forest rejects it.
    """
    rng = np.random.default_rng(0)
    count = min(count, max(_FEWEST_DRAWN_ROWS, _MAX_DRAWN_VALUES // len(schema.columns)))
    number_columns = [column for column in schema.columns if column.is_number]
    object_columns = [column for column in schema.columns if not column.is_number]
    numbers = np.empty((count, len(number_columns)))
    for index, column in enumerate(number_columns):
        numbers[:, index] = rng.choice(_number_choices(forest, index, column, example.numbers[0, index], rng), count)
    objects = np.empty((count, example.objects.shape[1]), dtype=np.object_)
    for j, column in enumerate(object_columns):
        index, typical = len(number_columns) + j, example.objects[0, j]
        if forest is None or forest.codes[j] is not None:
            objects[:, j] = rng.choice(np.array(_string_choices(forest, index, j, typical), np.object_), count)
        else:
            number = float(typical) if isinstance(typical, int | float) else 0.0
            objects[:, j] = rng.choice(_number_choices(forest, index, column, number, rng), count).tolist()
    rows = Rows(numbers, objects)
    return Rows.concatenate([example, rows]) if _accepts(forest, example) else rows


def _number_choices(
    forest: PackedForest | None, index: int, column: Column, typical: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    if column.type == "boolean":
        return np.array([0.0, 1.0])
    if known := _known_categories(forest, index):
        return np.array(known)
    if forest is not None:
        features = enumerate(forest.features)
        near_splits = [_around_splits(forest, i, feature) for i, feature in features if feature.column == index]
        values = np.concatenate([[typical], *near_splits])
    elif column.usual_range:
        values = rng.uniform(*column.usual_range, DRAWN_ROWS)
    else:
        values = typical + rng.normal(0, max(abs(typical), 1.0), DRAWN_ROWS)
    if column.is_integer:
        values = np.concatenate([np.floor(values), np.floor(values) + 1])
    valid = np.unique(values[(values >= column.low) & (values <= column.high)])
    return valid if len(valid) else np.array([typical])


def _around_splits(forest: PackedForest, index: int, feature: Feature) -> NDArray[np.float64]:
    """Return column values for which the feature lies on, and just above, each of its splits."""
    if feature.operation == kernel.EQUALS:  # The second value is probably an unknown category.
        return np.array([feature.first, feature.first + 1])
    splits = _thresholds(forest, index).astype(np.float64)
    with np.errstate(over="ignore"):
        if feature.operation == kernel.SHIFT_DIVIDE:
            splits = splits * feature.second + feature.first
        if feature.operation == kernel.MULTIPLY_ADD:
            splits = (splits - feature.second) / feature.first if feature.first else np.empty(0)
        above = np.nextafter(splits.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    return np.concatenate([splits, above])


def _thresholds(forest: PackedForest, index: int) -> NDArray[np.float32]:
    """Return the thresholds at which the trees split the feature with this index."""
    mask = (1 << forest.bits) - 1
    splits_feature = (np.asarray(forest.nodes[:, 1]) & forest.nodes.dtype.type(mask)) == index
    thresholds = np.ascontiguousarray(forest.nodes[splits_feature, 0]).astype(np.uint32)
    return np.unique(thresholds.view(np.float32))


def _string_choices(forest: PackedForest | None, index: int, j: int, typical: object) -> list[object]:
    """Return each category of the column at ``index``, and an unknown category if the model accepts one.

    ``j`` is the column's index among those that are not number columns.
    """
    if forest is None:
        return [typical]
    categories: list[object] = [*(forest.codes[j] or ())]
    return categories if _known_categories(forest, index) else [*categories, str(typical), "an unknown category"]


def _known_categories(forest: PackedForest | None, column: int) -> list[float]:
    """Return the codes of the only categories that a column accepts; empty if it accepts any value."""
    features = forest.features if forest else ()
    return sorted(f.first for f in features if f.column == column and f.operation == kernel.EQUALS_KNOWN)


def _accepts(forest: PackedForest | None, row: Rows) -> bool:
    """Return whether the row has a known category in each column that accepts no others."""
    if forest is None:
        return True
    pairs = zip(forest.codes, row.objects[0], strict=False)
    values = [*row.numbers[0], *(value if codes is None else codes.get(str(value), -1) for codes, value in pairs)]
    return all(not (known := _known_categories(forest, i)) or value in known for i, value in enumerate(values))
