"""CSV and Parquet, as MLflow's scoring server takes them."""

from __future__ import annotations

from io import BytesIO

import pandas as pd
import pytest

from server.errors import InvalidBody, InvalidRows
from server.inference.columns import column_of
from server.protocols.csv_parquet import parquet_is_read, read_csv, read_parquet

KINDS = {"n": "long", "x": "double", "b": "boolean", "s": "string"}
COLUMNS = [column_of(i, {"name": name, "type": kind}, {}) for i, (name, kind) in enumerate(KINDS.items())]


def rows(text: str) -> list[list[object]]:
    return [list(row) for row in read_csv(text.encode(), COLUMNS, 9).rows]


def test_csv_cells_are_parsed_by_column_type() -> None:
    """A cell is read as its column's type asks."""
    assert rows('n,x,b,s\n3,2.5,True,"a, ""b"""\r\n3.0,1e3,false,7\n') == [
        ["3", "2.5", True, 'a, "b"'],
        [3, "1e3", False, "7"],
    ]


def test_empty_csv_cells_are_missing_values() -> None:
    """Empty cells, short rows and pandas' words for nothing are missing values."""
    assert rows("n,x,b,s\n,NaN,null,NA\n1\n") == [[None] * 4, ["1", None, None, None]]


def test_pandas_writes_it() -> None:
    """What pandas writes, with its unnamed column of the index, is read."""
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", "ü"]})
    table = read_csv(frame.to_csv().encode(), COLUMNS, 9)
    assert list(table.names) == ["n", "s"]
    assert [list(row) for row in table.rows] == [["1", "a"], ["2", "ü"]]


def test_byte_order_mark_and_blank_lines() -> None:
    """A byte order mark is no part of the first name, and blank lines are no rows."""
    table = read_csv("\ufeffn\n1\n\n2\n".encode(), COLUMNS, 9)
    assert (list(table.names), len(table.rows)) == (["n"], 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"n,x\n1,2,3\n", "row 1 of the CSV has 3 values, its header has 2"),
        (b'n\n"1\n', "the body is not CSV"),
        (b"n\n" + b"1\n" * 10, "the body must have at most 9 rows, got 10"),
        (b"n\n\xff\n", "the body is not UTF-8: invalid start byte at byte 2"),
    ],
)
def test_invalid_csv_is_refused_with_the_reason(body: bytes, words: str) -> None:
    """What is no CSV is refused with the reason."""
    with pytest.raises((InvalidBody, InvalidRows), match=words):
        read_csv(body, COLUMNS, 9)


def test_only_what_the_model_has() -> None:
    """Of a wide table only the model's columns are read: rows take no more memory than those."""
    wide = ",".join(["n", *(f"c{i}" for i in range(9999)), "x"])
    assert [list(row) for row in read_csv(f"{wide}\n1\n".encode(), COLUMNS, 9).rows] == [["1", None]]


def test_first_of_two_csv_columns_counts() -> None:
    """Of two columns of the same name the first is read."""
    table = read_csv(b"n,x,n\n1,2.5,3\n", COLUMNS, 9)
    assert (list(table.names), [list(row) for row in table.rows]) == (["n", "x"], [["1", "2.5"]])


def test_csv_fault_names_row_and_column() -> None:
    """A fault's place in a file is told by its row and its column."""
    assert read_csv(b"n,x\n1,2\n", COLUMNS, 9).place(0, 1) == "#/row 1/x"


def parquet(**columns: object) -> bytes:
    file = BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


def test_parquet_reads_only_columns_of_the_model() -> None:
    """A Parquet file is read, missing values and all, as far as the model has its columns."""
    assert parquet_is_read()
    body = parquet(n=[1, 2], other=[[1], [2]], x=[2.5, None], s=["a", None], b=[True, False])
    table = read_parquet(body, COLUMNS, 9)
    assert list(table.names) == ["n", "x", "b", "s"]
    assert [list(row) for row in table.rows] == [[1, 2.5, True, "a"], [2, None, False, None]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"PAR1 or so", "the body is not Parquet"),
        (b"", "the body is not Parquet"),
        (parquet(n=[1] * 1_000_000), "must have at most 9 rows, got 1000000"),
        (parquet(s=["a" * 2**25, "b" * 2**25, "c" * 2**24]), "more than 67108864"),
    ],
    ids=["no file", "empty", "many rows", "long values"],
)
def test_invalid_or_expanding_parquet_is_refused(body: bytes, words: str) -> None:
    """What is no Parquet file is refused, and so is one that is small only as long as it is not read."""
    assert len(body) < 2**22
    with pytest.raises((InvalidBody, InvalidRows), match=words):
        read_parquet(body, COLUMNS, 9)
