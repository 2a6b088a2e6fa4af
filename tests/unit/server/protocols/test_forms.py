"""Rows of every form over the three protocols: tensors, dates, bytes, lists and values without a type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from server.inference.schema import InputSchema
from server.inference.signature import RECORDS
from server.metrics.counts import INVOCATIONS
from tests.support.models.echo_app import (
    BINARY,
    DATES,
    FLAT,
    IMAGE,
    IMAGES,
    INFER,
    MATRIX,
    NAMED,
    NESTED,
    STRINGS,
    TEXTS,
    UNTYPED,
    VALUES,
    WIDTH,
    labels,
    served,
    tensor,
)


@pytest.mark.parametrize(
    ("schema", "invocations", "instances", "inputs", "expected"),
    [
        (
            MATRIX,
            [{"inputs": [[1, 2.5]]}, {"instances": [["1", 2.5]]}, {"dataframe_split": {"data": [[1, 2.5]]}}],
            [[1, 2.5]],
            [tensor("input-0", "FP32", [1, 2], [1, 2.5])],
            [[1.0, 2.5]],
        ),
        (
            FLAT,
            [{"inputs": [1, None]}, {"instances": [1, None]}],
            [1, None],
            [tensor("input-0", "FP64", [2], [1, None])],
            [1.0, None],
        ),
        (
            IMAGES,
            [{"inputs": [[[1, 2], [3, 4]]]}, {"instances": [[[1, 2], [3, 4]]]}],
            [[[1, 2], [3, 4]]],
            [tensor("input-0", "UINT8", [1, 2, 2], [1, 2, 3, 4])],
            [[[1, 2], [3, 4]]],
        ),
        (TEXTS, [{"inputs": ["a", "bc"]}], ["a", "bc"], [tensor("input-0", "BYTES", [2], ["a", "bc"])], ["a", "bc"]),
        (
            NAMED,
            [
                {"inputs": {"image": [[1, 2]], "size": [3]}},
                {"instances": [{"image": [1, 2], "size": 3}]},
                {"instances": {"image": [[1, 2]], "size": [3]}},
            ],
            [{"size": 3, "image": [1, 2]}],
            [tensor("size", "INT64", [1], [3]), tensor("image", "FP32", [1, 2], [1, 2])],
            [{"image": [1.0, 2.0], "size": 3}],
        ),
        (
            DATES,
            [
                {"dataframe_records": [{"when": "2024-01-31T12:00:00+02:00"}]},
                {"inputs": {"when": ["2024-01-31T10:00:00"]}},
                {"dataframe_split": {"columns": ["when"], "data": [["2024-01-31 10:00"]]}},
                {"inputs": [1_706_695_200_000_000_000], "params": {}},
            ],
            [{"when": "2024-01-31T10:00:00Z"}],
            [tensor("when", "BYTES", [1, 1], ["2024-01-31T10:00"])],
            [{"when": "2024-01-31 10:00:00"}],
        ),
        (
            BINARY,
            [{"dataframe_records": [{"data": "YWI=\n"}]}],
            ["YWI="],
            [tensor("data", "BYTES", [1], ["YWI="])],
            [{"data": "b'ab'"}],
        ),
        (
            NESTED,
            [{"dataframe_records": [{"v": [1, 2], "o": {"a": 1}}]}, {"inputs": {"v": [[1, 2]], "o": [{"a": 1}]}}],
            [[[1, 2], {"a": 1}]],
            [tensor("v", "BYTES", [1], ["[1, 2]"]), tensor("o", "BYTES", [1, 1], ['{"a": 1}'])],
            [{"v": [1, 2], "o": {"a": 1}}],
        ),
        (STRINGS, [{"inputs": ["a", "b"]}], ["a", "b"], [tensor("input-0", "BYTES", [2], ["a", "b"])], ["a", "b"]),
        (
            UNTYPED,
            [
                {"dataframe_split": {"columns": ["b", "a"], "data": [["x", 1]]}},
                {"inputs": [[1, "x"]]},
                {"inputs": {"a": [1], "b": ["x"]}},
            ],
            [[1, "x"]],
            [tensor("a", "INT64", [1], [1]), tensor("b", "BYTES", [1], ["x"])],
            [{"a": 1, "b": "x"}],
        ),
        (
            WIDTH,
            [{"inputs": [[1, 2]]}, {"dataframe_split": {"columns": ["p", "q"], "data": [[1, 2]]}}],
            [{"x1": 2, "x0": 1}],
            [tensor("anything", "INT64", [1, 2], [1, 2])],
            [[1, 2]],
        ),
        (
            VALUES,
            [{"inputs": ["a", "b"]}, {"instances": [["a"], ["b"]]}],
            ["a", "b"],
            [tensor("x", "BYTES", [2, 1], ["a", "b"])],
            ["a", "b"],
        ),
        (
            RECORDS,
            [{"inputs": [{"a": 1}]}, {"inputs": {"a": [1]}}, {"dataframe_split": {"columns": ["a"], "data": [[1]]}}],
            [{"a": 1}],
            [tensor("a", "INT64", [1], [1])],
            [{"a": 1}],
        ),
    ],
    ids=[
        "matrix",
        "flat",
        "images",
        "texts",
        "named",
        "dates",
        "binary",
        "nested",
        "hint",
        "frame",
        "width",
        "values",
        "records",
    ],
)
def test_every_protocol_passes_the_same_values(
    schema: InputSchema, invocations: list[Any], instances: list[Any], inputs: list[Any], expected: list[Any]
) -> None:
    """The model gets the same values, in the form and the types that it takes, from each form of each protocol."""
    with served(schema) as client:
        answers = [client.post(INVOCATIONS, json=body) for body in invocations]
        answers.append(client.post("/predict", json={"instances": instances}))
        answers.append(client.post(INFER, json={"inputs": inputs}))
    for answer in answers:
        got = labels(answer)
        assert [None if value != value else value for value in got] == expected  # noqa: PLR0124  (NaN)


@pytest.mark.parametrize(
    ("schema", "inputs"),
    [
        (MATRIX, [("input-0", "FP32", [-1, 2])]),
        (FLAT, [("input-0", "FP64", [-1])]),
        (IMAGES, [("input-0", "UINT8", [-1, 2, 2])]),
        (TEXTS, [("input-0", "BYTES", [-1])]),
        (NAMED, [("image", "FP32", [-1, 2]), ("size", "INT64", [-1, 1])]),
        (DATES, [("when", "BYTES", [-1, 1])]),
        (BINARY, [("data", "BYTES", [-1, 1])]),
        (NESTED, [("v", "BYTES", [-1, 1]), ("o", "BYTES", [-1, 1])]),
        (STRINGS, [("input-0", "BYTES", [-1])]),
        (UNTYPED, [("a", "FP64", [-1, 1]), ("b", "BYTES", [-1, 1])]),
        (WIDTH, [("input-0", "FP64", [-1, 2])]),
    ],
)
def test_metadata_describe_the_tensors_of_a_request(
    schema: InputSchema, inputs: list[tuple[str, str, list[int]]]
) -> None:
    """The metadata of V2 have the name, datatype and shape of each input; an unnamed one is called input-0."""
    with served(schema) as client:
        document = client.get("/v2/models/echo").json()
    assert [(t["name"], t["datatype"], t["shape"]) for t in document["inputs"]] == inputs
    assert [output["name"] for output in document["outputs"]] == ["predict"]


def test_list_column_may_be_a_tensor_of_numbers() -> None:
    """A column of lists of one length may be sent as a tensor with the rows in its first dimension."""
    with served(NESTED) as client:
        inputs = [tensor("v", "FP64", [2, 2], [1, 2, 3, 4]), tensor("o", "BYTES", [2], ['{"a": 1}', '{"a": 2}'])]
        assert labels(client.post(INFER, json={"inputs": inputs})) == [
            {"v": [1, 2], "o": {"a": 1}},
            {"v": [3, 4], "o": {"a": 2}},
        ]


def test_rows_with_nan_keep_other_texts() -> None:
    """A body with NaN is decoded like any other, and half of a surrogate pair in it is invalid JSON."""
    with served(UNTYPED) as client:
        body = b'{"inputs": [[NaN, "\\u00e9\\ud83d\\ude00"]]}'
        headers = {"Content-Type": "application/json"}
        assert labels(client.post(INVOCATIONS, content=body, headers=headers)) == [{"a": None, "b": "é😀"}]
        for path in (INVOCATIONS, INFER):
            answer = client.post(path, content=b'{"inputs": [[NaN, "\\ud83d"]]}', headers=headers)
            assert answer.status_code == 400
            assert "the body is not JSON" in answer.text


def test_list_is_taken_for_the_only_named_tensor() -> None:
    """/invocations takes a list for the only named tensor, as MLflow does."""
    with served(IMAGE) as client:
        for body in ({"inputs": [[1, 2]]}, {"instances": [[1, 2]]}, {"inputs": {"image": [[1, 2]]}}):
            assert labels(client.post(INVOCATIONS, json=body)) == [{"image": [1.0, 2.0]}]
        refused = client.post(INVOCATIONS, json={"inputs": [[1]]})
        assert (refused.status_code, "inputs.image.0 must be a list of 2" in refused.text) == (400, True)


def test_arrays_of_numbers_have_the_dtype_of_the_model() -> None:
    """The model gets arrays of the signature's dtype: a float32 has lost the digits that it cannot hold."""
    with served(MATRIX) as client:
        assert labels(client.post("/predict", json={"instances": [[0.1, 1]]})) == [[float(np.float32(0.1)), 1.0]]
