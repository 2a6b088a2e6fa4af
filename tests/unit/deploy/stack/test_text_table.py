"""Tests of tables in plain text."""

from __future__ import annotations

import pytest

from deploy.stack.text_table import table


def test_columns_are_aligned() -> None:
    """Every column is as wide as its widest cell, and no line ends in spaces."""
    lines = table([("NAME", "PID", "X"), ("a", "12345", ""), ("longer", "1", "y")])
    assert lines == [
        "NAME    PID    X",
        "a       12345",
        "longer  1      y",
    ]


def test_table_without_rows_is_its_header() -> None:
    """A table without rows consists of its header."""
    assert table([("NAME", "STATE")]) == ["NAME  STATE"]


def test_row_with_too_many_cells_is_an_error() -> None:
    """A row with more cells than the header raises ValueError."""
    with pytest.raises(ValueError, match="argument"):
        table([("NAME", "STATE"), ("a", "b", "c")])
