"""Tests of the rows that are made up for a model without an example."""

from __future__ import annotations

from server.inference.columns import Column
from server.inference.examples import made_up_examples
from server.inference.schema import Form, InputSchema
from server.inference.signature import RECORDS, schema_of_names, schema_of_width


def test_model_of_which_nothing_is_known_is_tried_with_a_data_frame() -> None:
    """A row that is an object becomes a DataFrame, so the model is tried with one, after a number and a text."""
    assert made_up_examples(RECORDS, {}) == ({"row": 0.0}, {"row": "string"}, {"row": {"x0": 0.0}})


def test_model_that_takes_any_single_value_is_tried_with_an_object() -> None:
    """A pipeline that begins with a DictVectorizer takes objects."""
    flat = InputSchema((Column("x0", "any"),), form=Form.ARRAY, is_flat=True)
    assert made_up_examples(flat, {})[-1] == {"x0": {}}


def test_columns_are_tried_with_numbers_and_text() -> None:
    """Columns without a type get numbers, and then text; a known value stays."""
    expected = ({"a": 0.0, "b": "x"}, {"a": "string", "b": "x"})
    assert made_up_examples(schema_of_names(["a", "b"]), {"b": "x"}) == expected
    assert len(made_up_examples(schema_of_width(2), {})) == 2
