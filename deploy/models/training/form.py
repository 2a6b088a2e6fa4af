"""Covertype in the workshop's form: what its columns are called, what they may hold, and tables turned into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.errors import StartError

# Whole-set ranges, as the data set was published: lowest and highest value, both included.
PUBLISHED_RANGES: dict[str, tuple[int, int]] = {
    "elevation": (1859, 3858),
    "aspect": (0, 360),
    "slope": (0, 66),
    "horizontal_distance_to_hydrology": (0, 1397),
    "vertical_distance_to_hydrology": (-173, 601),
    "horizontal_distance_to_roadways": (0, 7117),
    "hillshade_9am": (0, 255),
    "hillshade_noon": (0, 255),
    "hillshade_3pm": (0, 255),
    "horizontal_distance_to_fire_points": (0, 7173),
    "wilderness_area": (1, 4),
    "soil_type": (1, 40),
}
FEATURES = tuple(PUBLISHED_RANGES)
LABEL = "cover_type"
COLUMNS = (*FEATURES, LABEL)

NUMBERS = 10
# The one-hot blocks of the published form: where each starts and ends (counted from 0, the end excluded).
_ONE_HOT = {"wilderness_area": (10, 14), "soil_type": (14, 54)}
UCI_COLUMNS = (
    *FEATURES[:NUMBERS],
    *(f"{name}_{code}" for name, (start, end) in _ONE_HOT.items() for code in range(1, end - start + 1)),
    LABEL,
)

# What a column must hold; the other features may go past their published range, a code may not.
_CODES = {"wilderness_area": (1, 4), "soil_type": (1, 40), LABEL: (1, 7)}
# With five rows of a class, a held-out fifth has one of it.
MIN_ROWS_PER_CLASS = 5


class DataError(StartError):
    """The training data cannot be read, or is not Covertype."""


@dataclass(frozen=True, slots=True)
class Covertype:
    """``x``: n x 12 float64 in the order of ``FEATURES``; ``y``: n int64 labels, 1 to 7; ``source``: told to users."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.int64]
    source: str


def from_frame(frame: pd.DataFrame, place: str, source: str) -> Covertype:
    """Turn a table with the columns ``COLUMNS``, or ``UCI_COLUMNS``, in that order, into Covertype.

    Raises:
        DataError: a cell, a row or the number of rows is not what it must be; ``place`` leads the message.

    """
    values = _whole_numbers(frame, place)
    if values.shape[1] == len(UCI_COLUMNS):
        values = _folded(values, place)
    _check_codes(values, place)
    _check_classes(values[:, -1], place)
    return Covertype(np.ascontiguousarray(values[:, :-1]), values[:, -1].astype(np.int64), source)


def _whole_numbers(frame: pd.DataFrame, place: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = frame.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values) | (values != np.floor(values))
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        cell = str(frame.iat[row, column])
        raise DataError(f"{place}: row {row + 1}, column {frame.columns[column]}: expected a whole number, got {cell}")
    return values


def _folded(values: npt.NDArray[np.float64], place: str) -> npt.NDArray[np.float64]:
    codes = [_code(values[:, start:end], name, place) for name, (start, end) in _ONE_HOT.items()]
    return np.column_stack([values[:, :NUMBERS], *codes, values[:, -1]])


def _code(block: npt.NDArray[np.float64], name: str, place: str) -> npt.NDArray[np.int64]:
    """Which column of a one-hot block holds the 1, counted from 1."""
    bad = (block.sum(axis=1) != 1) | (block.min(axis=1) < 0)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{place}: row {row + 1}, the one-hot columns of {name}: expected one 1, and 0 elsewhere")
    codes: npt.NDArray[np.int64] = block.argmax(axis=1).astype(np.int64) + 1
    return codes


def _check_codes(values: npt.NDArray[np.float64], place: str) -> None:
    for name, (low, high) in _CODES.items():
        column = values[:, COLUMNS.index(name)]
        bad = (column < low) | (column > high)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"{place}: row {row + 1}, column {name}: expected {low} to {high}, got {column[row]:.0f}")


def _check_classes(labels: npt.NDArray[np.float64], place: str) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    need = f"expected two classes or more with at least {MIN_ROWS_PER_CLASS} rows each, to train and to hold some out"
    if len(classes) < 2:
        raise DataError(f"{place}: {len(labels)} rows of {len(classes)} classes: {need}")
    if counts.min() < MIN_ROWS_PER_CLASS:
        rare = counts.argmin()
        raise DataError(f"{place}: {LABEL} {classes[rare]:.0f} has {counts[rare]} rows: {need}")
