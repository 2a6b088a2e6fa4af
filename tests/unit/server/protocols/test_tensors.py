"""Conversion of tensors from JSON to rows, and of predictions to tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from server.errors import InvalidBody
from server.inference.rows import Prediction
from server.inference.signature import schema_from_signature
from server.protocols.output_tensors import output_tensors
from server.protocols.tensors import DATATYPES, Tensor, to_table

SIGNATURE = [{"name": name, "type": column_type} for name, column_type in {"a": "long", "b": "double"}.items()]
SCHEMA = schema_from_signature(SIGNATURE, {})


def tensor(**changes: Any) -> Tensor:
    return Tensor.parse({"name": "a", "shape": [2], "datatype": "INT64", "data": [1, 2], **changes}, "inputs.0")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": None}, "inputs.0.name must be a non-empty string, got null"),
        ({"name": ""}, "name must be a non-empty string"),
        ({"shape": None}, "shape must be a list of 1 to 8 whole numbers, got null"),
        ({"shape": []}, "shape must be"),
        ({"shape": [-1]}, "shape must be"),
        ({"shape": [True]}, "shape must be"),
        ({"shape": [1] * 8 + [2]}, "shape must be a list of 1 to 8 whole numbers, got a list of 9"),
        ({"shape": [3]}, "data must have 3 values, as its shape says, got 2"),
        ({"shape": [10**9, 10**9]}, "data must have 1000000000000000000 values"),
        ({"datatype": "int64"}, "datatype must be one of BOOL, INT8"),
        ({"datatype": ["INT64"]}, "datatype must be one of"),
        ({"data": None}, r"data is missing; binary data is not supported, send JSON \(binary_data=False\)"),
        ({"data": "AQI="}, "data must be a list, got"),
        ({"data": [1, "2"]}, 'data.1 must be of the datatype INT64, got "2"'),
        ({"data": [1, True]}, "data.1 must be of the datatype INT64, got true"),
        ({"data": [1, 1.5]}, "data.1 must be of the datatype INT64, got 1.5"),
        ({"datatype": "INT8", "data": [1, 128]}, "data.1 must be of the datatype INT8, got 128"),
        ({"datatype": "UINT64", "data": [1, -1]}, "data.1 must be of the datatype UINT64, got -1"),
        ({"datatype": "FP16", "data": [1, 65505]}, "data.1 must be of the datatype FP16, got 65505"),
        ({"datatype": "FP64", "data": [1, 10**400]}, "data.1 must be of the datatype FP64"),
        ({"datatype": "BOOL", "data": [True, 1]}, "data.1 must be of the datatype BOOL, got 1"),
        ({"datatype": "BYTES", "data": ["a", 1]}, "data.1 must be of the datatype BYTES, got 1"),
        ({"data": [[1], [2]]}, "inputs.0.data.0 is nested deeper than the shape says"),
        ({"shape": [2, 2], "data": [[1, 2], [3]]}, r"inputs.0.data.1 must be a list of length 2, as the shape says"),
        ({"shape": [2, 1], "data": [[1], 2]}, r"inputs.0.data.1 must be a list of length 1, as the shape says, got 2"),
    ],
)
def test_invalid_tensor_is_refused_with_location(changes: dict[str, Any], reason: str) -> None:
    """An invalid tensor is rejected with what is wrong, and where."""
    with pytest.raises(InvalidBody, match=reason):
        tensor(**changes)


@pytest.mark.parametrize("document", [None, [], "a", 1])
def test_tensor_must_be_an_object(document: object) -> None:
    """An input that is not an object is rejected."""
    with pytest.raises(InvalidBody, match="must be an object with name"):
        Tensor.parse(document, "inputs.0")


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_accepts_its_own_values(datatype: str) -> None:
    """Each datatype accepts values of its own type."""
    values: dict[str, list[Any]] = {"BOOL": [True, False], "BYTES": ["a", "b"]}
    data = values.get(datatype, [1, 2.0])
    assert tensor(datatype=datatype, data=data).data == data


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["", "U"])
def test_integers_are_accepted_up_to_the_limits(sign: str, bits: int) -> None:
    """The lowest and the highest integer of a datatype are accepted, and those one beyond are rejected."""
    datatype = f"{sign}INT{bits}"
    low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert tensor(datatype=datatype, data=[low, high]).data == [low, high]
    for beyond in (low - 1, high + 1):
        with pytest.raises(InvalidBody, match=f"data.1 must be of the datatype {datatype}, got {beyond}"):
            tensor(datatype=datatype, data=[0, beyond])


def test_fp32_value_is_rounded_to_float32() -> None:
    """A value of FP32 is rounded to the nearest float32, which is what the client had in memory."""
    assert tensor(datatype="FP32", data=[0.1, 1]).data == [float(np.float32(0.1)), 1.0]


def test_null_values_stay_null_in_any_datatype() -> None:
    """A null stays None in any datatype; validation decides whether the column accepts it."""
    assert tensor(datatype="FP32", data=[None, 1]).data == [None, 1.0]
    assert tensor(data=[1, None]).data == [1, None]


def test_matrix_named_like_a_column_is_the_whole_table() -> None:
    """A tensor with as many columns as the model is the whole table, even if it has the name of one column."""
    assert list(to_table([tensor(shape=[1, 2])], SCHEMA).names) == ["a", "b"]


def test_nested_and_flat_data_are_equal() -> None:
    """Flat data and data nested as the shape says are the same tensor."""
    assert tensor(shape=[2, 2], data=[1, 2, 3, 4]) == tensor(shape=[2, 2], data=[[1, 2], [3, 4]])


def test_tensors_per_column_may_be_in_any_order() -> None:
    """Tensors per column may be in any order, of shape [n] or [n, 1]."""
    table = to_table([tensor(name="b", shape=[2, 1]), tensor(name="a", data=[3, 4])], SCHEMA)
    assert (list(table.names), [list(row) for row in table.rows]) == (["b", "a"], [[1, 3], [2, 4]])
    assert table.value_pointer(1, 0) == "#/inputs/0/data/1"


def test_single_tensor_has_columns_in_signature_order() -> None:
    """A single tensor of shape [n, k] has the columns in the order of the signature; its name does not matter."""
    table = to_table([tensor(name="x", shape=[2, 2], data=[1, 2, 3, 4])], SCHEMA)
    assert (list(table.names), [list(row) for row in table.rows]) == (["a", "b"], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ([{"name": "x"}], r"one tensor per column, or one of shape \[n, 2\] for all columns; got 'x' of shape \[2\]"),
        ([{}, {"name": "c"}], r"inputs.1 \(c\) is not a column of this model; expected a, b"),
        ([{}, {}], r"inputs.1 \(a\) is given twice"),
        ([{"shape": [1, 2]}, {}], r"inputs.0 \(a\) must have the shape \[n\] or \[n, 1\], got \[1, 2\]"),
        (
            [{}, {"name": "b", "shape": [1], "data": [1]}],
            r"inputs.1 \(b\) must have as many rows as the other tensors, got 1",
        ),
    ],
)
def test_tensors_that_form_no_rows_are_refused(tensors: list[dict[str, Any]], reason: str) -> None:
    """Tensors that do not form rows of the model are rejected."""
    with pytest.raises(InvalidBody, match=reason):
        to_table([tensor(**changes) for changes in tensors], SCHEMA)


@pytest.mark.parametrize(
    ("labels", "datatype", "shape", "data"),
    [
        ([1, 2], "INT64", (2,), [1, 2]),
        ([1.5, 2.0], "FP64", (2,), [1.5, 2.0]),
        (["a", "b"], "BYTES", (2,), ["a", "b"]),
        ([True, False], "BOOL", (2,), [True, False]),
        ([[1, 2], [3, 4]], "INT64", (2, 2), [1, 2, 3, 4]),
        ([None, 1], "BYTES", (2,), ["None", "1"]),
        ([{"a": 1}, {2: None}], "BYTES", (2,), ['{"a":1}', '{"2":null}']),
        ([[1], [1, 2]], "BYTES", (2,), ["[1]", "[1, 2]"]),
    ],
)
def test_labels_choose_the_output_datatype(
    labels: list[Any], datatype: str, shape: tuple[int, ...], data: list[Any]
) -> None:
    """Labels are one tensor of the datatype that can hold them, or of text if none can."""
    assert output_tensors(Prediction(labels, None)) == [Tensor("predict", shape, datatype, data)]


def test_confidences_are_omitted_when_any_row_lacks_them() -> None:
    """Confidences are a second tensor, unless a row has none."""
    assert [output.name for output in output_tensors(Prediction([1, 2], [0.5, 1.0]))] == ["predict", "confidence"]
    assert [output.name for output in output_tensors(Prediction([1, 2], [0.5, None]))] == ["predict"]


def test_named_outputs_are_one_tensor_each() -> None:
    """A model that names its outputs has one tensor per name."""
    tensors = output_tensors(Prediction([[1, "a"], [2, "b"]], None, ("n", "s")))
    assert [output.to_document() for output in tensors] == [
        {"name": "n", "shape": (2,), "datatype": "INT64", "data": [1, 2]},
        {"name": "s", "shape": (2,), "datatype": "BYTES", "data": ["a", "b"]},
    ]
    assert [output.name for output in output_tensors(Prediction([1, 2], None, ("n",)))] == ["n"]
