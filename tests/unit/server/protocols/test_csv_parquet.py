"""Reading CSV and Parquet bodies as MLflow's scoring server does."""

from __future__ import annotations

from io import BytesIO, StringIO

import pandas as pd
import pytest

from server.errors import InvalidBody, InvalidRows
from server.inference.signature import RECORDS, schema_from_signature, schema_of_names, schema_of_width
from server.protocols.csv_parquet import can_read_parquet, read_csv, read_parquet

SIGNATURE = [
    {"name": name, "type": column_type}
    for name, column_type in {"n": "long", "x": "double", "b": "boolean", "s": "string"}.items()
]
SCHEMA = schema_from_signature(SIGNATURE, {})


def rows(text: str) -> list[list[object]]:
    return [list(row) for row in read_csv(text.encode(), SCHEMA, 9).rows]


def test_csv_cells_are_parsed_by_column_type() -> None:
    """A cell becomes a value of its column's type, or stays text that validation converts or rejects."""
    assert rows('n,x,b,s\n3,2.5,True,"a, ""b"""\r\n3.0,1e3,false,7\n') == [
        ["3", "2.5", True, 'a, "b"'],
        [3, "1e3", False, "7"],
    ]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "007"], [1, 7]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1", ""], [1.0, None]),
        (["1", "-inf"], [1.0, float("-inf")]),
        (["1", "x"], ["1", "x"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["\uff11", "2"], ["\uff11", "2"]),
        (["0x10", "1"], ["0x10", "1"]),
        (["true", "FALSE"], [True, False]),
        (["true", "NA"], [True, None]),
        (["true", "1"], ["true", "1"]),
        (["true", "x"], ["true", "x"]),
        ([" x", "NaN"], [" x", None]),
        (["NA", "NA"], [None, None]),
        (["2024-01-31", "2024"], ["2024-01-31", "2024"]),
    ],
)
def test_untyped_csv_column_has_one_type_as_in_pandas(cells: list[str], values: list[object]) -> None:
    """The cells of a column without a type get the type that pandas finds for all of them together."""
    body = "a,z\n" + "".join(f"{cell},0\n" for cell in cells)
    read = [row[0] for row in read_csv(body.encode(), schema_of_names(["a"]), 9).rows]
    assert repr(read) == repr(values)
    expected = pd.read_csv(StringIO(body))["a"].tolist()
    assert repr([None if value != value else value for value in expected]) == repr(values)  # noqa: PLR0124  (NaN)


def test_csv_of_a_model_without_columns_is_read_whole() -> None:
    """A model of which nothing is known gets every column of the table, each with its own type."""
    table = read_csv(b"a,b\n1,x\n2,3\n", RECORDS, 9)
    assert (list(table.names), table.rows) == (["a", "b"], [[1, "x"], [2, "3"]])


@pytest.mark.parametrize("header", ["x0,x1", "a,b", "x1,x0"])
def test_csv_of_an_array_is_read_by_position(header: str) -> None:
    """The columns of an array are taken by position, unless the header has the array's own names."""
    table = read_csv(f"{header}\n1,2\n".encode(), schema_of_width(2), 9)
    assert schema_of_width(2).lenient().parse_table(table, 9) == ([[2, 1]] if header == "x1,x0" else [[1, 2]])


def test_csv_dates_and_bytes_stay_text() -> None:
    """Cells of dates and bytes stay text, which validation converts."""
    schema = schema_from_signature([{"name": "when", "type": "datetime"}, {"name": "data", "type": "binary"}], {})
    table = read_csv(b"when,data\n2024-01-31,1234\n,\n", schema, 9)
    assert table.rows == [["2024-01-31", "1234"], [None, None]]


def test_csv_without_known_columns_keeps_its_rows() -> None:
    """A table of which the model has no column keeps its number of rows, so that the error names the columns."""
    assert read_csv(b"a\n1\n2\n", SCHEMA, 9).rows == [[], []]


def test_empty_csv_cells_are_missing_values() -> None:
    """Empty cells, cells beyond a short row and pandas' names for missing values are None."""
    assert rows("n,x,b,s\n,NaN,null,NA\n1\n") == [[None] * 4, ["1", None, None, None]]


def test_csv_written_by_pandas_is_read() -> None:
    """A CSV that pandas writes is read without its unnamed column of the index."""
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", "ü"]})
    table = read_csv(frame.to_csv().encode(), SCHEMA, 9)
    assert list(table.names) == ["n", "s"]
    assert [list(row) for row in table.rows] == [["1", "a"], ["2", "ü"]]


def test_byte_order_mark_and_blank_lines_are_ignored() -> None:
    """A byte order mark is not part of the first name, and blank lines are not rows."""
    table = read_csv("\ufeffn\n1\n\n2\n".encode(), SCHEMA, 9)
    assert (list(table.names), len(table.rows)) == (["n"], 2)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is empty"),
        (b"n,x\n1,2,3\n", "row 1 of the CSV must have at most 2 values, got 3"),
        (b'n\n"1\n', "the body is not CSV"),
        (b"n\n" + b"1\n" * 10, "the body must have at most 9 rows, got 10"),
        (b"n\n\xff\n", "the body is not UTF-8: invalid start byte at byte 2"),
    ],
)
def test_invalid_csv_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    """A body that is not valid CSV is rejected with the reason."""
    with pytest.raises((InvalidBody, InvalidRows), match=reason):
        read_csv(body, SCHEMA, 9)


def test_csv_reads_only_columns_of_the_model() -> None:
    """Rows of a wide table have only the model's columns, which limits their memory."""
    wide = ",".join(["n", *(f"c{i}" for i in range(9999)), "x"])
    assert [list(row) for row in read_csv(f"{wide}\n1\n".encode(), SCHEMA, 9).rows] == [["1", None]]


def test_first_of_two_csv_columns_counts() -> None:
    """If two columns have the same name, the first is read."""
    table = read_csv(b"n,x,n\n1,2.5,3\n", SCHEMA, 9)
    assert (list(table.names), [list(row) for row in table.rows]) == (["n", "x"], [["1", "2.5"]])


def test_csv_fault_names_row_and_column() -> None:
    """The place of a fault names the row and the column."""
    assert read_csv(b"n,x\n1,2\n", SCHEMA, 9).value_pointer(0, 1) == "#/row 1/x"


def parquet(**columns: object) -> bytes:
    file = BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


def test_parquet_reads_only_columns_of_the_model() -> None:
    """The model's columns of a Parquet file are read, with None for missing values."""
    assert can_read_parquet()
    body = parquet(n=[1, 2], unknown=[[1], [2]], x=[2.5, None], s=["a", None], b=[True, False])
    table = read_parquet(body, SCHEMA, 9)
    assert list(table.names) == ["n", "x", "b", "s"]
    assert [list(row) for row in table.rows] == [[1, 2.5, True, "a"], [2, None, False, None]]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"PAR1 or so", "the body is not Parquet"),
        (b"", "the body is not Parquet"),
        (parquet(n=[1] * 1_000_000), "must have at most 9 rows, got 1000000"),
        (parquet(s=["a" * 2**25, "b" * 2**25, "c" * 2**24]), "expected at most 67108864"),
    ],
    ids=["no file", "empty", "many rows", "long values"],
)
def test_invalid_or_expanding_parquet_is_refused(body: bytes, reason: str) -> None:
    """A body that is not Parquet, or that is small but would expand to many rows or bytes, is rejected."""
    assert len(body) < 2**22
    with pytest.raises((InvalidBody, InvalidRows), match=reason):
        read_parquet(body, SCHEMA, 9)
