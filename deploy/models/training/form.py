"""The Covertype data set in the form that this project uses: its columns, their ranges, and conversion of tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.errors import StartError

# The lowest and highest value of each feature in the published data set, both included.
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
# The values that a feature can have at all, both included; of the other features any number is possible. A code of 0
# means that the category is unknown.
DOMAIN_RANGES: dict[str, tuple[int, int]] = {
    "aspect": (0, 360),
    "hillshade_9am": (0, 255),
    "hillshade_noon": (0, 255),
    "hillshade_3pm": (0, 255),
    "wilderness_area": (0, 4),
    "soil_type": (0, 40),
}
FEATURES = tuple(PUBLISHED_RANGES)
LABEL = "cover_type"
COLUMNS = (*FEATURES, LABEL)

# The first features are measurements, which are real numbers; the others are codes of categories.
NUMBER_FEATURES = 10
# In the published data set each code is a block of one-hot columns: its first index, and the index after its last.
_ONE_HOT_BLOCKS = {"wilderness_area": (10, 14), "soil_type": (14, 54)}
UCI_COLUMNS = (
    *FEATURES[:NUMBER_FEATURES],
    *(f"{name}_{code}" for name, (start, end) in _ONE_HOT_BLOCKS.items() for code in range(1, end - start + 1)),
    LABEL,
)

# A row to train on must lie in the domain, and have a known category; a measurement may exceed its published range.
_VALID_RANGES = DOMAIN_RANGES | {"wilderness_area": (1, 4), "soil_type": (1, 40), LABEL: (1, 7)}
# A fifth of the rows is held out, so that five rows of a class leave one of it to score.
MIN_ROWS_PER_CLASS = 5


class DataError(StartError):
    """The training data cannot be read, or is not Covertype."""


@dataclass(frozen=True, slots=True)
class Covertype:
    """The rows of the data set.

    ``x``: n x 12 float64 in the order of ``FEATURES``; ``y``: n int64 labels, 1 to 7; ``source``: a text for users.
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.int64]
    source: str


def from_frame(frame: pd.DataFrame, location: str, source: str) -> Covertype:
    """Convert a table with the columns ``COLUMNS`` or ``UCI_COLUMNS``, in that order.

    Raises:
        DataError: a cell or the number of rows is invalid; the message starts with ``location``.

    """
    values = _whole_numbers(frame, location)
    if values.shape[1] == len(UCI_COLUMNS):
        values = _decode_one_hot(values, location)
    _check_ranges(values, location)
    _check_classes(values[:, -1], location)
    return Covertype(np.ascontiguousarray(values[:, :-1]), values[:, -1].astype(np.int64), source)


def _whole_numbers(frame: pd.DataFrame, location: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = frame.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    invalid = ~np.isfinite(values) | (values != np.floor(values))
    if invalid.any():
        row, column = (int(index) for index in np.argwhere(invalid)[0])
        name, cell = frame.columns[column], str(frame.iat[row, column])
        raise DataError(f"{location}: row {row + 1}, column {name}: expected a whole number, got {cell}")
    return values


def _decode_one_hot(values: npt.NDArray[np.float64], location: str) -> npt.NDArray[np.float64]:
    codes = [_code(values[:, start:end], name, location) for name, (start, end) in _ONE_HOT_BLOCKS.items()]
    return np.column_stack([values[:, :NUMBER_FEATURES], *codes, values[:, -1]])


def _code(block: npt.NDArray[np.float64], name: str, location: str) -> npt.NDArray[np.int64]:
    """Return the code that a block of one-hot columns encodes in each row: the position of the 1, counted from 1."""
    invalid = (block.sum(axis=1) != 1) | (block.min(axis=1) < 0)
    if invalid.any():
        row = int(invalid.argmax())
        raise DataError(f"{location}: row {row + 1}, the one-hot columns of {name}: expected one 1 and otherwise 0")
    codes: npt.NDArray[np.int64] = block.argmax(axis=1).astype(np.int64) + 1
    return codes


def _check_ranges(values: npt.NDArray[np.float64], location: str) -> None:
    for name, (low, high) in _VALID_RANGES.items():
        column = values[:, COLUMNS.index(name)]
        invalid = (column < low) | (column > high)
        if invalid.any():
            row = int(invalid.argmax())
            raise DataError(
                f"{location}: row {row + 1}, column {name}: expected {low} to {high}, got {column[row]:.0f}"
            )


def _check_classes(labels: npt.NDArray[np.float64], location: str) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    expected = f"expected at least two classes with {MIN_ROWS_PER_CLASS} rows or more each, for training and scoring"
    if len(classes) < 2:
        raise DataError(f"{location}: {len(labels)} rows of {len(classes)} classes: {expected}")
    if counts.min() < MIN_ROWS_PER_CLASS:
        rarest = counts.argmin()
        raise DataError(f"{location}: {LABEL} {classes[rarest]:.0f} has {counts[rarest]} rows: {expected}")
