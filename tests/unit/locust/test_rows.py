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
