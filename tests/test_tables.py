"""CSV and Parquet, as MLflow's scoring server takes them."""

from __future__ import annotations

from io import BytesIO

import pandas as pd
import pytest

from server.columns import column_of
from server.errors import BadForm
from server.tables import parquet_is_read, read_csv, read_parquet

KINDS = {"n": "long", "x": "double", "b": "boolean", "s": "string"}
COLUMNS = [column_of(i, {"name": name, "type": kind}, {}) for i, (name, kind) in enumerate(KINDS.items())]


def rows(text: str) -> list[list[object]]:
    return [list(row) for row in read_csv(text.encode(), COLUMNS).rows]


def test_cells() -> None:
    """A cell is read as its column's type asks."""
    assert rows('n,x,b,s\n3,2.5,True,"a, ""b"""\r\n3.0,1e3,false,7\n') == [
        ["3", "2.5", True, 'a, "b"'],
        [3, "1e3", False, "7"],
    ]


def test_missing_cells() -> None:
    """Empty cells, short rows and pandas' words for nothing are missing values."""
    assert rows("n,x,b,s\n,NaN,null,NA\n1\n") == [[None] * 4, ["1", None, None, None]]


def test_pandas_writes_it() -> None:
    """What pandas writes, with its unnamed column of the index, is read."""
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", "ü"]})
    table = read_csv(frame.to_csv().encode(), COLUMNS)
    assert list(table.names) == ["", "n", "s"]
    assert [list(row) for row in table.rows] == [["0", "1", "a"], ["1", "2", "ü"]]


def test_byte_order_mark_and_blank_lines() -> None:
    """A byte order mark is no part of the first name, and blank lines are no rows."""
    table = read_csv("\ufeffn\n1\n\n2\n".encode(), COLUMNS)
    assert (list(table.names), len(table.rows)) == (["n"], 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"n,x\n1,2,3\n", "row 1 of the CSV has 3 values, its header has 2"),
        (b'n\n"1\n', "the body is not CSV"),
        (b"n\n\xff\n", "the body is not UTF-8: invalid start byte at byte 2"),
    ],
)
def test_no_csv(body: bytes, words: str) -> None:
    """What is no CSV is refused with the reason."""
    with pytest.raises(BadForm, match=words):
        read_csv(body, COLUMNS)


def test_places() -> None:
    """A fault's place in a file is told by its row and its column."""
    assert read_csv(b"n,x\n1,2\n", COLUMNS).place(0, 1) == "#/row 1/x"


def test_parquet() -> None:
    """A Parquet file is read, missing values and all."""
    assert parquet_is_read()
    file = BytesIO()
    pd.DataFrame({"n": [1, 2], "x": [2.5, None], "s": ["a", None], "b": [True, False]}).to_parquet(file)
    table = read_parquet(file.getvalue())
    assert list(table.names) == ["n", "x", "s", "b"]
    assert [list(row) for row in table.rows] == [[1, 2.5, "a", True], [2, None, None, False]]


def test_no_parquet() -> None:
    """What is no Parquet file is refused."""
    with pytest.raises(BadForm, match="the body is not Parquet"):
        read_parquet(b"PAR1 or so")
