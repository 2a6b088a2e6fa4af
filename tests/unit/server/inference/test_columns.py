"""A column's values: what is one, and what MLflow's leniency makes of what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.columns import Column, cast, column_of

KINDS = ("integer", "long", "float", "double", "boolean", "string")
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)
)


def column(kind: str, *, required: bool = True) -> Column:
    return column_of(0, {"name": "x", "type": kind, "required": required}, {})


@pytest.mark.parametrize(
    ("kind", "value", "made"),
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
def test_lenient_conversion_follows_numpy(kind: str, value: object, made: object) -> None:
    """What NumPy would make one of the column's values becomes one."""
    assert cast(column(kind), value) == made
    assert type(cast(column(kind), value)) is type(made)


@pytest.mark.parametrize(
    ("kind", "value"),
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
def test_left_as_it_is(kind: str, value: object) -> None:
    """What cannot be made one is left as it is, and is refused."""
    assert cast(column(kind), value) is value
    assert not column(kind).accepts(value)


@given(st.sampled_from(KINDS), VALUES)
def test_leniency_refuses_nothing_that_is_good(kind: str, value: Any) -> None:
    """A value that strictness accepts means the same under leniency, and nothing makes it fail."""
    one = column(kind)
    made = cast(one, value)
    if one.accepts(value):
        assert np.array([made]).astype(np.float64 if kind not in ("string",) else object).tolist() == [value]


def test_unlimited_column_accepts_its_type_range() -> None:
    """A column without its range takes all that its type holds; one that had none is itself."""
    limited = column_of(0, {"name": "x", "type": "integer"}, {"x": [1, 4]})
    assert not limited.accepts(5)
    assert limited.unlimited().accepts(2**31 - 1)
    assert not limited.unlimited().accepts(2**31)
    assert column("double").unlimited() == column("double")
