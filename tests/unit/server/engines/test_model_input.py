"""Tests of the input that a model gets in each form: its names, order, shapes and types."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from server.engines.model_input import to_model_input
from server.inference.columns import Column
from server.inference.schema import Form, InputSchema
from server.inference.signature import RECORDS, schema_from_signature, schema_of_names, schema_of_width

FLAT_TEXTS = InputSchema((Column("x0", "any"),), form=Form.ARRAY, is_flat=True)


def tensors(*specs: tuple[str | None, str, list[int]]) -> InputSchema:
    inputs: list[dict[str, Any]] = [
        {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **({} if name is None else {"name": name})}
        for name, dtype, shape in specs
    ]
    return schema_from_signature(inputs, {})


def model_input(schema: InputSchema, *rows: object) -> Any:
    """Return what a model gets for rows of ``instances``, under MLflow's lenient policy."""
    return to_model_input(schema.to_rows(schema.lenient().parse_values(list(rows), "#", 99)), schema)


def test_frame_has_the_types_of_the_signature() -> None:
    """Columns of a DataFrame have the types that MLflow gives them; missing optional numbers make a column float."""
    types = ("boolean", "integer", "long", "float", "double", "string", "datetime", "binary", "array", "any")
    inputs: list[dict[str, Any]] = [{"name": type_name, "type": type_name} for type_name in types]
    inputs.append({"name": "optional", "type": "long", "required": False})
    schema = schema_from_signature(inputs, {})
    row = [True, 1, 2, 0.5, 1.5, "a", "2024-01-31T12:00Z", "YQ==", [1, "x"], 3, None]
    frame = model_input(schema, dict(zip(schema.names, row, strict=True)))
    assert list(frame) == list(schema.names)
    assert [
        str(frame[name].dtype) for name in ("boolean", "integer", "long", "float", "double", "datetime", "any")
    ] == [
        "bool",
        "int32",
        "int64",
        "float32",
        "float64",
        "datetime64[ns]",
        "int64",
    ]
    assert frame.iloc[0].tolist()[5:10] == ["a", pd.Timestamp(datetime(2024, 1, 31, 12)), b"a", [1, "x"], 3]
    assert frame["optional"].dtype == np.float64
    assert frame["optional"].isna().all()


def test_missing_optional_values_are_missing_in_a_frame() -> None:
    """A missing optional date is NaT, a missing text None."""
    inputs = [{"name": name, "type": name, "required": False} for name in ("datetime", "string")]
    frame = model_input(schema_from_signature(inputs, {}), {"datetime": "2024-01-31"}, {"string": "a"})
    assert frame.isna().to_numpy().tolist() == [[False, True], [True, False]]
    assert frame["datetime"].dtype == np.dtype("datetime64[ns]")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 2], "int64"), ([1, 2.5], "float64"), ([True, False], "bool"), ([1, None], "float64"), ([[1], [2]], "object")],
)
def test_untyped_column_of_a_frame_has_the_type_of_its_values(values: list[object], dtype: str) -> None:
    """A column without a type has the type that pandas gives to its values, as in a DataFrame from JSON."""
    frame = model_input(schema_of_names(["a", "b"]), *([value, "x"] for value in values))
    assert frame["a"].dtype == np.dtype(dtype)
    assert frame["b"].tolist() == ["x"] * 2


@pytest.mark.parametrize(
    ("schema", "rows", "expected"),
    [
        (schema_of_width(2), [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        (schema_of_width(2), [[1, 2.5]], np.array([[1, 2.5]])),
        (schema_of_width(2), [["1", "a"]], np.array([["1", "a"]])),
        (schema_of_width(2), [[1, "a"]], np.array([[1, "a"]], object)),
        (schema_of_width(2), [[1, None]], np.array([[1, None]], object)),
        (FLAT_TEXTS, ["a", "bc"], np.array(["a", "bc"])),
        (FLAT_TEXTS, ["a", 3], np.array(["a", 3], object)),
        (tensors((None, "float32", [-1, 2])), [[1, None]], np.array([[1, np.nan]], np.float32)),
        (tensors((None, "int64", [-1])), [1, 2], np.array([1, 2])),
        (tensors((None, "bool", [-1, 2])), [[True, False]], np.array([[True, False]])),
        (tensors((None, "str", [-1])), ["a", "bc"], np.array(["a", "bc"])),
        (tensors((None, "str", [-1, 2])), [["a", "bc"]], np.array([["a", "bc"]])),
        (tensors((None, "bytes", [-1])), ["a", "ü"], np.array([b"a", "ü".encode()])),
        (tensors((None, "bytes", [-1, 2])), [["a", "ü"]], np.array([[b"a", "ü".encode()]])),
        (tensors((None, "object", [-1, 2])), [[1, "a"]], np.array([[1, "a"]], object)),
        (tensors((None, "datetime64[ns]", [-1])), ["2024-01-31"], np.array(["2024-01-31"], "datetime64[ns]")),
        (tensors((None, "datetime64[s]", [-1])), ["2024-01-31"], np.array(["2024-01-31"], "datetime64[s]")),
        (
            tensors((None, "uint8", [-1, 2, 2])),
            [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
            np.arange(1, 9, dtype=np.uint8).reshape(2, 2, 2),
        ),
    ],
)
def test_array_has_the_shape_and_the_dtype_of_the_model(
    schema: InputSchema, rows: list[object], expected: np.ndarray[Any, Any]
) -> None:
    """An array has a dimension of rows before those of a row, and the dtype of the signature or of its values."""
    array = model_input(schema, *rows)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(array, expected)


def test_rows_of_different_lengths_are_an_array_of_objects() -> None:
    """Arrays of an unknown length that differ from row to row, and lists of different lengths, are objects."""
    ragged = model_input(tensors((None, "float64", [-1, -1])), [1, 2], [3])
    assert (ragged.dtype, ragged.shape) == (np.dtype(object), (2,))
    assert [row.tolist() for row in ragged] == [[1, 2], [3]]
    lists = model_input(schema_of_width(2), [1, [2, 3]])
    assert (lists.dtype, lists.shape) == (np.dtype(object), (1,))


def test_named_tensors_are_a_dict_of_arrays() -> None:
    """Named tensors are a dict with an array for each name, of the dtype of the signature."""
    schema = tensors(("image", "float32", [-1, 2]), ("size", "int16", [-1]), ("text", "str", [-1]))
    arrays = model_input(schema, {"size": 3, "image": [1, 2], "text": "ab"}, {"size": 4, "image": [3, 4], "text": "c"})
    assert list(arrays) == ["image", "size", "text"]
    assert {name: (array.dtype.str, array.tolist()) for name, array in arrays.items()} == {
        "image": ("<f4", [[1, 2], [3, 4]]),
        "size": ("<i2", [3, 4]),
        "text": ("<U2", ["ab", "c"]),
    }


@pytest.mark.parametrize(
    ("spec", "rows", "values"),
    [
        ({"type": "string"}, ["a", "b"], ["a", "b"]),
        ({"type": "double"}, [1, 2.5], [1.0, 2.5]),
        ({"type": "long"}, [1, 2.0], [1, 2]),
        ({"type": "boolean"}, [True, False], [True, False]),
        ({"type": "long", "required": False}, [1, None], [1, None]),
        ({"type": "array", "items": {"type": "long"}}, [[1], [2.0], []], [[1], [2], []]),
        ({"type": "array", "items": {"type": "double"}}, [[1, 2.5]], [[1.0, 2.5]]),
        ({"type": "map", "values": {"type": "float"}}, [{"a": 1}], [{"a": 1.0}]),
        ({"type": "object", "properties": {"a": {"type": "long"}}}, [{"a": 1}, {}, {"b": 2}], [{"a": 1}, {}, {"b": 2}]),
        ({"type": "any"}, [{"a": 1}, [2], None, "b"], [{"a": 1}, [2], None, "b"]),
    ],
)
def test_type_hint_gets_a_list(spec: dict[str, Any], rows: list[object], values: list[object]) -> None:
    """A model whose signature is a type hint gets a list with the value of each row, in the types of the hint."""
    result = model_input(schema_from_signature([spec], {}, type_hint=True), *rows)
    assert result == values
    assert repr(result) == repr(values)


@pytest.mark.parametrize("rows", [[[1, 2]], [[1, "a"]], [["a", "b"]], [[[1, 2], [3, 4]]]])
def test_tensor_of_objects_keeps_its_dtype(rows: list[object]) -> None:
    """A tensor of objects is an array of objects, whatever the values are, and a value that is a list stays one."""
    array = model_input(tensors((None, "object", [-1, 2])), *rows)
    assert (array.dtype, array.shape, array.tolist()) == (np.dtype(object), (1, 2), rows)


def test_records_are_a_frame_or_an_array() -> None:
    """Rows of a model of which nothing is known are a DataFrame if they are objects, and else an array."""
    frame = model_input(RECORDS, {"a": 1, "b": "x"}, {"a": 2, "b": "y"})
    assert frame.to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}
    assert model_input(RECORDS, [1, 2], [3, 4]).tolist() == [[1, 2], [3, 4]]
    assert model_input(RECORDS, "a", "b").tolist() == ["a", "b"]
    assert model_input(RECORDS, [1, 2], [3]).tolist() == [[1, 2], [3]]
    assert model_input(RECORDS, {"a": 1}, 3).tolist() == [{"a": 1}, 3]


def test_type_hint_gets_dates_of_python() -> None:
    """A model whose type hint is list[datetime] gets Python's datetime, because MLflow refuses NumPy's."""
    schema = schema_from_signature([{"type": "datetime"}], {}, type_hint=True)
    rows = schema.to_rows(schema.parse({"instances": ["2024-01-31T12:00:00+01:00"]}, 1).values)
    assert to_model_input(rows, schema) == [datetime(2024, 1, 31, 11)]
