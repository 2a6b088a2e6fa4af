"""Tests of the input schema that a signature describes, or without one a fitted estimator or an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from server.errors import ModelError
from server.inference.columns import Policy
from server.inference.schema import Form, InputSchema
from server.inference.signature import (
    RECORDS,
    schema_from_signature,
    schema_of_estimator,
    schema_of_example,
    schema_of_names,
    schema_of_width,
)

X = np.array([[0.0, 1.0], [1.0, 0.0]])


def tensor_schema(dtype: str, shape: Sequence[int], name: str | None = None) -> InputSchema:
    return schema_from_signature([tensor_spec(dtype, shape, name)], {})


def tensor_spec(dtype: str, shape: Sequence[int], name: str | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return spec if name is None else {**spec, "name": name}


def columns_of(schema: InputSchema) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(column.name, column.type, column.shape) for column in schema.columns]


@pytest.mark.parametrize(
    ("dtype", "shape", "columns", "is_flat"),
    [
        ("float64", [-1], [("x0", "double", ())], True),
        ("float64", [-1, 1], [("x0", "double", ())], False),
        ("float64", [-1, 3], [("x0", "double", ()), ("x1", "double", ()), ("x2", "double", ())], False),
        ("float32", [-1, -1], [("x0", "tensor", (-1,))], False),
        ("uint8", [-1, 28, 28], [("x0", "tensor", (28, 28))], False),
        ("float32", [-1, -1, 3, 2], [("x0", "tensor", (-1, 3, 2))], False),
        ("str", [-1], [("x0", "string", ())], True),
        ("str", [-1, 2], [("x0", "string", ()), ("x1", "string", ())], False),
        ("bytes", [-1], [("x0", "string", ())], True),
        ("bool", [-1], [("x0", "boolean", ())], True),
        ("object", [-1, 2], [("x0", "any", ()), ("x1", "any", ())], False),
        ("datetime64[ns]", [-1], [("x0", "datetime", ())], True),
        ("float64", [7, 2], [("x0", "double", ()), ("x1", "double", ())], False),
    ],
)
def test_unnamed_tensor_is_an_array(
    dtype: str, shape: list[int], columns: list[tuple[str, str, tuple[int, ...]]], is_flat: bool
) -> None:
    """An unnamed tensor has a column for each value of a row, or one for rows of a higher or an unknown rank."""
    schema = tensor_schema(dtype, shape)
    assert (schema.form, schema.is_flat, columns_of(schema)) == (Form.ARRAY, is_flat, columns)
    assert {column.dtype for column in schema.columns} == {np.dtype(dtype)}
    assert schema.is_positional


@pytest.mark.parametrize(
    ("specs", "columns"),
    [
        ([tensor_spec("float32", [-1, 4], "image")], [("image", "tensor", (4,))]),
        ([tensor_spec("float32", [-1], "x")], [("x", "float", ())]),
        (
            [tensor_spec("float32", [-1, 4, -1], "image"), tensor_spec("int64", [-1], "size")],
            [("image", "tensor", (4, -1)), ("size", "long", ())],
        ),
    ],
)
def test_named_tensors_are_columns(
    specs: list[dict[str, Any]], columns: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    """Each named tensor is a column, whose rows are arrays unless the tensor has only one dimension."""
    schema = schema_from_signature(specs, {})
    assert (schema.form, columns_of(schema)) == (Form.TENSORS, columns)
    assert not schema.is_positional
    assert not schema.takes_bare_values


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int16", -(2**15), 2**15 - 1),
        ("uint32", 0, 2**32 - 1),
        ("int64", -(2**53), 2**53),
        ("uint64", 0, 2**53),
        ("float16", -65504, 65504),
    ],
)
def test_numbers_of_a_tensor_have_the_range_of_its_dtype(dtype: str, low: float, high: float) -> None:
    """A number of a tensor is within the range of the dtype, and within the integers that float64 holds exactly."""
    (column,) = tensor_schema(dtype, [-1]).columns
    assert (column.low, column.high) == (low, high)
    assert column.accepts(high)
    assert not column.accepts(high * 2)
    assert not column.has_range


def test_only_float_tensors_take_null() -> None:
    """Null stands for NaN in tensors of floats, and in no other."""
    takes_null = {dtype: tensor_schema(dtype, [-1]).columns[0].accepts(None) for dtype in ("float32", "int8", "bool")}
    assert takes_null == {"float32": True, "int8": False, "bool": False}


def test_type_hint_takes_a_list_of_values() -> None:
    """The signature of a type hint has one unnamed column, whose values are the items of a list."""
    inputs = [{"type": "string", "required": True}]
    hinted, plain = schema_from_signature(inputs, {}, type_hint=True), schema_from_signature(inputs, {})
    assert (hinted.form, hinted.names, plain.form) == (Form.LIST, ("0",), Form.FRAME)
    assert [schema.lenient().policy for schema in (hinted, plain)] == [Policy.STRICT, Policy.LENIENT]
    named = schema_from_signature([{"type": "string", "name": "x"}], {}, type_hint=True)
    assert named.form is Form.FRAME


def test_objects_of_a_type_hint_are_open() -> None:
    """An object of a type hint, at any depth, may lack properties, which may have defaults, and may have others."""
    item = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "long"}}}}}
    inputs = [{"type": "array", "items": item}]
    (hinted,) = schema_from_signature(inputs, {}, type_hint=True).columns
    (plain,) = schema_from_signature(inputs, {}).columns
    for column, is_open in ((hinted, True), (plain, False)):
        assert column.items is not None
        assert (column.is_open, column.items.is_open, column.items.properties[0].is_open) == (False, is_open, is_open)


def test_column_types_are_kept_with_what_they_contain() -> None:
    """Arrays, objects and maps keep the types of their items and properties, and whether a property is required."""
    properties = {"a": {"type": "long"}, "b": {"type": "string", "required": False}}
    inputs: list[dict[str, Any]] = [
        {"name": "list", "type": "array", "items": {"type": "array", "items": {"type": "double"}}},
        {"name": "object", "type": "object", "properties": properties},
        {"name": "map", "type": "map", "values": {"type": "boolean"}},
        {"name": "any", "type": "any", "required": False},
        {"name": "when", "type": "datetime"},
        {"name": "data", "type": "binary"},
    ]
    lists, objects, maps, *others = schema_from_signature(inputs, {}).columns
    assert lists.items is not None
    assert lists.items.items is not None
    assert lists.items.items.type == "double"
    assert [(inner.name, inner.type, inner.required) for inner in objects.properties] == [
        ("a", "long", True),
        ("b", "string", False),
    ]
    assert maps.items is not None
    assert maps.items.type == "boolean"
    assert [column.type for column in others] == ["any", "datetime", "binary"]
    assert [column.is_loose for column in (lists, objects, maps, *others)] == [True] * 4 + [False] * 2


def test_two_tensors_of_one_name_are_refused() -> None:
    """A signature that names a tensor twice is refused."""
    with pytest.raises(ModelError, match="names a column twice"):
        schema_from_signature([tensor_spec("float64", [-1], "x"), tensor_spec("float64", [-1], "x")], {})


def test_range_of_a_tensor_column_is_refused() -> None:
    """Metadata with a range for a value of an unnamed tensor are refused, since it has no name in the model."""
    with pytest.raises(ModelError, match="has a range for 'y', which is not one of its columns"):
        schema_from_signature([tensor_spec("float64", [-1, 1])], {"y": [0, 1]})


def test_estimator_with_names_takes_a_frame() -> None:
    """An estimator that was fitted on a DataFrame has its columns, without types."""
    schema = schema_of_estimator(DecisionTreeClassifier().fit(pd.DataFrame(X, columns=["a", "b"]), [0, 1]))
    assert (schema.form, columns_of(schema)) == (Form.FRAME, [("a", "any", ()), ("b", "any", ())])
    assert not schema.is_typed
    assert schema.is_loose


def test_estimator_without_names_takes_an_array() -> None:
    """An estimator that was fitted on an array has columns named as scikit-learn names them."""
    schema = schema_of_estimator(LinearRegression().fit(X, [0, 1]))
    assert (schema.form, schema.is_flat, columns_of(schema)) == (
        Form.ARRAY,
        False,
        [("x0", "any", ()), ("x1", "any", ())],
    )


def test_estimator_of_texts_takes_one_value_per_row() -> None:
    """A pipeline that begins with a vectorizer counts no columns, and takes one value per row."""
    pipeline = make_pipeline(CountVectorizer(), DecisionTreeClassifier()).fit(["a word", "two words"], [0, 1])
    schema = schema_of_estimator(pipeline)
    assert (schema.form, schema.is_flat, columns_of(schema)) == (Form.ARRAY, True, [("x0", "any", ())])


@pytest.mark.parametrize(
    ("example", "schema"),
    [
        ({"a": 1, "b": "x"}, schema_of_names(["a", "b"])),
        ([1, 2, 3], schema_of_width(3)),
        ("text", RECORDS),
        (3, RECORDS),
        (None, RECORDS),
    ],
)
def test_example_tells_the_columns(example: object, schema: InputSchema) -> None:
    """The columns of a model of which only an example is known are those of the example, or unknown."""
    assert schema_of_example(example) == schema


def test_names_of_columns_are_texts() -> None:
    """Columns that are named by numbers, as in a DataFrame without a header, are named by their texts."""
    assert schema_of_names([0, "b"]).names == ("0", "b")
