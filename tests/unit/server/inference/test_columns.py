"""Tests of the values that a column accepts, and of their conversion under MLflow's lenient policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.columns import Column, cast, parse_column

TYPES = ("integer", "long", "float", "double", "boolean", "string")
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)
)


def column(type_name: str, *, required: bool = True) -> Column:
    return parse_column(0, {"name": "x", "type": type_name, "required": required}, {})


@pytest.mark.parametrize(
    ("type_name", "value", "converted"),
    [
        ("integer", 2596.5, 2596),
        ("integer", -3.9, -3),
        ("long", True, 1),
        ("long", " 7 ", 7),
        ("double", "3.5", 3.5),
        ("float", False, 0.0),
        ("boolean", 2, True),
        ("boolean", 0.0, False),
        ("string", 3, "3"),
        ("string", 3.0, "3.0"),
        ("string", True, "True"),
    ],
)
def test_lenient_conversion_follows_numpy(type_name: str, value: object, converted: object) -> None:
    """A value of another type is converted to the column's type as NumPy does it."""
    assert cast(column(type_name), value) == converted
    assert type(cast(column(type_name), value)) is type(converted)


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("integer", "3.5"),
        ("integer", "tall"),
        ("integer", None),
        ("integer", float("nan")),
        ("long", float("inf")),
        ("double", ""),
        ("double", [1.5]),
        ("boolean", "false"),
        ("boolean", None),
        ("string", None),
        ("string", {"a": 1}),
    ],
)
def test_value_that_cannot_be_converted_is_refused(type_name: str, value: object) -> None:
    """A value that cannot be converted is returned unchanged, and the column does not accept it."""
    assert cast(column(type_name), value) is value
    assert not column(type_name).accepts(value)


@given(st.sampled_from(TYPES), VALUES)
def test_conversion_keeps_valid_values(type_name: str, value: Any) -> None:
    """Converting any value raises no exception, and a value that the strict policy accepts keeps its meaning."""
    tested = column(type_name)
    converted = cast(tested, value)
    if tested.accepts(value):
        expected = float(value) if type_name in ("float", "double") else value
        assert np.array([converted]).astype(np.float64 if type_name != "string" else object).tolist() == [expected]


def test_column_without_range_accepts_the_range_of_its_type() -> None:
    """A column without its range accepts all values of its type; a column that had no range is unchanged."""
    limited = parse_column(0, {"name": "x", "type": "integer"}, {"x": [1, 4]})
    assert not limited.accepts(5)
    assert limited.without_range().accepts(2**31 - 1)
    assert not limited.without_range().accepts(2**31)
    assert column("double").without_range() == column("double")
