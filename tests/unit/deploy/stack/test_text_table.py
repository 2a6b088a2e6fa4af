"""Rows of text as a table."""

from __future__ import annotations

import pytest

from deploy.stack.text_table import table


def test_table_is_aligned() -> None:
    """Every column is as wide as its widest cell, and no line ends in spaces."""
    lines = table([("NAME", "PID", "X"), ("a", "12345", ""), ("longer", "1", "y")])
    assert lines == [
        "NAME    PID    X",
        "a       12345",
        "longer  1      y",
    ]


def test_table_without_rows_is_its_title() -> None:
    """A table of no rows is its title."""
    assert table([("NAME", "STATE")]) == ["NAME  STATE"]


def test_row_of_another_width() -> None:
    """A row with too many cells is a mistake that shows."""
    with pytest.raises(ValueError, match="argument"):
        table([("NAME", "STATE"), ("a", "b", "c")])
