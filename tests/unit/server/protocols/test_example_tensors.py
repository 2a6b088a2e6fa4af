"""Tests of the tensors that describe a model's input, and of the example that is made of them."""

from __future__ import annotations

import pytest

from server.inference.signature import schema_from_signature
from server.protocols.tensors import example_tensors


@pytest.mark.parametrize(
    ("shape", "example", "datatype"),
    [
        ([-1, 2], {"x0": 0.0, "x1": 1.5}, "FP64"),
        ([-1, 2], {"x0": "a", "x1": "b"}, "BYTES"),
        ([-1, 1, 2], {"x0": [[1, 2]]}, "FP64"),
    ],
)
def test_tensor_of_objects_has_the_datatype_of_its_example(
    shape: list[int], example: dict[str, object], datatype: str
) -> None:
    """A tensor of objects takes any values, so its datatype is that of the values which the model predicts."""
    schema = schema_from_signature([{"type": "tensor", "tensor-spec": {"dtype": "object", "shape": shape}}], {})
    assert [tensor["datatype"] for tensor in example_tensors(schema, example)] == [datatype]
