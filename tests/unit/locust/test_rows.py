"""Tests of the load generator's rows, which are drawn within ranges or read from a file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

import rows
from failures import CannotStartError
from tests.support.programs.locust_process import FEATURES, is_valid

HEADER = "cover_type,below,small,degrees,free,flag,word,perhaps,maybe\n"
LINE = "7,-6,2.0,0.25,12.5,true,a word,,yes\n"


def test_rows_are_drawn_within_the_ranges() -> None:
    """Every value has its feature's type and lies in its observed range, or else its range; all values occur."""
    drawn = rows.drawn(FEATURES, 300)
    assert len(drawn) == 300
    assert all(is_valid(row) for row in drawn)
    for name, values in {"small": {1, 2, 3, 4}, "below": {-7, -6, -5}, "perhaps": {10, 11, 12}}.items():
        assert {row[name] for row in drawn} == values
    assert {row["flag"] for row in drawn} == {True, False}


def test_values_without_a_type_follow_the_example() -> None:
    """A column without a type gets numbers around its example; text, dates, lists and categories are the example's."""
    features: dict[str, dict[str, object]] = {
        "petal": {"example": 1.5},
        "zero": {"example": 0.0},
        "category": {"example": 3},
        "word": {"type": "string", "example": "pine"},
        "when": {"type": "string", "format": "date-time", "example": "2024-01-31T12:00:00"},
        "pixels": {"type": "array", "example": [1, 2]},
        "any": {"example": "text"},
    }
    for row in rows.drawn(features, 50):
        assert 0 <= float(str(row["petal"])) <= 3
        assert 0 <= float(str(row["zero"])) <= 1
        assert [row[name] for name in ("word", "when", "any")] == ["pine", "2024-01-31T12:00:00", "text"]
        assert row["category"] == 3
        assert row["pixels"] == [1, 2]


@pytest.mark.parametrize(("low", "high"), [(-3.4e38, 3.4e38), (-(2**53), 2**53)])
def test_range_of_a_type_is_not_drawn_from(low: float, high: float) -> None:
    """A column that only its type limits gets ordinary numbers, not those at the ends of 64 bits."""
    features = {"x": {"type": "number", "minimum": low, "maximum": high}}
    assert all(0 <= float(str(row["x"])) <= 1000 for row in rows.drawn(features, 50))


def test_cells_without_a_type_are_numbers_if_they_read_as_one(tmp_path: Path) -> None:
    """A file's cells in columns without a type become whole numbers, numbers or text, and lists are read as JSON."""
    path = tmp_path / "rows.csv"
    path.write_text('a,b,c,d\n1,2.5,pine,"[1, 2]"\n')
    assert rows.read(path, {"a": {}, "b": {}, "c": {}, "d": {"type": "array"}}, 1) == [
        {"a": 1, "b": 2.5, "c": "pine", "d": [1, 2]}
    ]


def test_rows_of_a_file_have_the_features_types(tmp_path: Path) -> None:
    """Cells of a file get the JSON types of their features, empty cells become null, and other columns are ignored."""
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + LINE)
    (row,) = rows.read(path, FEATURES, 10)
    expected = {
        "small": 2, "below": -6, "degrees": 0.25, "free": 12.5, "flag": True, "word": "a word", "perhaps": None,
        "maybe": "yes",
    }  # fmt: skip
    assert row == expected
    assert type(row["small"]) is int


def test_rows_are_sampled_evenly_from_a_large_file(tmp_path: Path) -> None:
    """Rows of a large gzipped file are sampled evenly over the whole file."""
    path = tmp_path / "rows.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("x\n" + "".join(f"{number}\n" for number in range(10_000)))
    values = [float(str(row["x"])) for row in rows.read(path, {"x": {"type": "number"}}, 1000)]
    assert len(set(values)) == 1000
    assert 4000 < sum(values) / 1000 < 6000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("small,below\n1,2\n", " lacks degrees, free, flag, word, perhaps, maybe: expected a column for each feature"),
        ("", " lacks small, below, degrees, free, flag, word, perhaps, maybe: expected a column for each feature"),
        (HEADER, " has no rows"),
        (HEADER + LINE + LINE.replace("12.5", "far"), ", line 3: could not convert string to float: 'far'"),
        (HEADER + LINE.replace("true", "perhaps"), ", line 2: expected true or false, not 'perhaps'"),
        (HEADER + "1,2\n", ", line 2: list index out of range"),
    ],
)
def test_invalid_rows_file_is_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    """An invalid file is refused with its name, the reason, and the line if there is one."""
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(CannotStartError) as caught:
        rows.read(path, FEATURES, 10)
    assert str(caught.value) == f"--data {path}{reason}"


def test_misnamed_gzip_file_is_refused(tmp_path: Path) -> None:
    """A file whose name ends with .gz but which is not gzipped is refused with its name."""
    path = tmp_path / "rows.csv.gz"
    path.write_text(HEADER + LINE)
    with pytest.raises(CannotStartError, match=r"^--data .*rows\.csv\.gz: Not a gzipped file"):
        rows.read(path, FEATURES, 10)
