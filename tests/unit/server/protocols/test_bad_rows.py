"""Bad rows of every form over the three protocols: each is refused with its place, and never with a 5xx."""

from __future__ import annotations

from typing import Any

import pytest

from server.inference.schema import InputSchema
from server.inference.signature import RECORDS
from server.metrics.counts import INVOCATIONS
from tests.support.models.echo_app import (
    BINARY,
    DATES,
    FLAT,
    IMAGES,
    INFER,
    MATRIX,
    NAMED,
    NESTED,
    REFUSED,
    STRINGS,
    TEXTS,
    UNTYPED,
    WIDTH,
    served,
    tensor,
)

BAD: list[tuple[InputSchema, Any, Any, Any, str]] = [
    (MATRIX, [[1]], {"inputs": [[1]]}, [tensor("input-0", "FP32", [1, 1], [1])], "#/instances/0"),
    (MATRIX, [[1, "a"]], {"inputs": [[1, "a"]]}, [tensor("input-0", "BYTES", [1, 2], ["1", "a"])], "#/instances/0/1"),
    (MATRIX, [[[1], 2]], {"inputs": [[[1], 2]]}, [tensor("input-0", "FP32", [1, 2, 1], [1, 2])], "#/instances/0/0"),
    (MATRIX, [1], {"inputs": [1, 2]}, [tensor("input-0", "FP32", [2], [1, 2])], "#/instances/0"),
    (FLAT, [[1, 2]], {"inputs": [[1, 2]]}, [tensor("input-0", "FP64", [1, 2], [1, 2])], "#/instances/0"),
    (
        IMAGES,
        [[[1, 2], [3]]],
        {"inputs": [[[1, 2], [3]]]},
        [tensor("input-0", "UINT8", [1, 4], [1, 2, 3, 4])],
        "#/instances/0/1",
    ),
    (
        IMAGES,
        [[[1, 2], [3, None]]],
        {"inputs": [[[1, 2], [3, None]]]},
        [tensor("input-0", "UINT8", [1, 2, 2], [1, 2, 3, None])],
        "#/instances/0/1/1",
    ),
    (
        IMAGES,
        [[[1, 2], [3, 256]]],
        {"inputs": [[[1, 2], [3, 256]]]},
        [tensor("input-0", "INT64", [1, 2, 2], [1, 2, 3, 256])],
        "#/instances/0/1/1",
    ),
    (TEXTS, [None], {"inputs": [None]}, [tensor("input-0", "BYTES", [1], [None])], "#/instances/0"),
    (TEXTS, [["a", "b"]], {"inputs": [["a", "b"]]}, [tensor("input-0", "BYTES", [1, 2], ["a", "b"])], "#/instances/0"),
    (
        NAMED,
        [{"image": [1, 2]}],
        {"inputs": {"image": [[1, 2]]}},
        [tensor("image", "FP32", [1, 2], [1, 2])],
        "#/instances/0/size",
    ),
    (
        NAMED,
        [{"image": [1], "size": 3}],
        {"inputs": {"image": [[1]], "size": [3]}},
        [tensor("image", "FP32", [1, 1], [1]), tensor("size", "INT64", [1], [3])],
        "#/instances/0/image",
    ),
    (
        NAMED,
        [{"image": 1, "size": 3}],
        {"inputs": {"image": [1], "size": [3]}},
        [tensor("image", "FP32", [1], [1]), tensor("size", "INT64", [1], [3])],
        "#/instances/0/image",
    ),
    (
        DATES,
        [{"when": "2024-02-30"}],
        {"inputs": {"when": ["2024-02-30"]}},
        [tensor("when", "BYTES", [1], ["2024-02-30"])],
        "#/instances/0/when",
    ),
    (
        DATES,
        ["0001-01-01T00:00+14:00"],
        {"inputs": ["0001-01-01T00:00+14:00"]},
        [tensor("when", "BYTES", [1], ["0001-01-01T00:00+14:00"])],
        "#/instances/0",
    ),
    (DATES, [{"when": None}], {"inputs": {"when": [None]}}, [tensor("when", "INT64", [1], [1])], "#/instances/0/when"),
    (BINARY, [{"data": "%"}], {"inputs": {"data": ["%"]}}, [tensor("data", "BYTES", [1], ["%"])], "#/instances/0/data"),
    (
        NESTED,
        [{"v": [1, "a"], "o": {"a": 1}}],
        {"inputs": {"v": [[1, "a"]], "o": [{"a": 1}]}},
        [tensor("v", "BYTES", [1], ['[1, "a"]']), tensor("o", "BYTES", [1], ['{"a": 1}'])],
        "#/instances/0/v/1",
    ),
    (
        NESTED,
        [{"v": [1], "o": {"b": 1}}],
        {"inputs": {"v": [[1]], "o": [{"b": 1}]}},
        [tensor("v", "BYTES", [1], ["[1]"]), tensor("o", "BYTES", [1], ["{"])],
        "#/instances/0/o/b",
    ),
    (STRINGS, ["a", 3], {"inputs": ["a", None]}, [tensor("input-0", "INT64", [1], [3])], "#/instances/1"),
    (UNTYPED, [[1]], {"inputs": [[1]]}, [tensor("a", "INT64", [1], [1])], "#/instances/0"),
    (
        UNTYPED,
        [[1, 2], [3, REFUSED]],
        {"inputs": [[1, 2], [3, REFUSED]]},
        [tensor("a", "BYTES", [2], ["1", "2"]), tensor("b", "BYTES", [2], ["1", REFUSED])],
        "#/instances/1",
    ),
    (WIDTH, [[1, 2, 3]], {"inputs": [[1, 2, 3]]}, [tensor("input-0", "INT64", [1, 3], [1, 2, 3])], "#/instances/0"),
    (WIDTH, [{"x0": 1}], {"inputs": {"x0": [1], "b": [2]}}, [tensor("x0", "INT64", [1], [1])], "#/instances/0/x1"),
    (RECORDS, [], {"inputs": []}, [tensor("a", "INT64", [0], [])], "#/instances"),
]


@pytest.mark.parametrize(("schema", "instances", "invocations", "inputs", "pointer"), BAD)
def test_bad_row_is_refused_in_the_form_of_its_protocol(
    schema: InputSchema, instances: list[Any], invocations: Any, inputs: list[Any], pointer: str
) -> None:
    """A bad row is a 422 with its place on /predict, and a 400 in the protocol's own form elsewhere."""
    with served(schema) as client:
        predict = client.post("/predict", json={"instances": instances})
        assert (predict.status_code, predict.json()["errors"][0]["pointer"]) == (422, pointer)
        scoring = client.post(INVOCATIONS, json=invocations)
        assert (scoring.status_code, set(scoring.json())) == (400, {"error_code", "message", "sqlstate", "error_class"})
        infer = client.post(INFER, json={"inputs": inputs})
        assert (infer.status_code, set(infer.json())) == (400, {"error"})


def test_row_that_the_model_refuses_is_counted_in_every_protocol() -> None:
    """The error for a row that the model itself refuses says which of the rows it is."""
    rows = [[1, 2], [3, REFUSED]]
    with served(UNTYPED) as client:
        predict = client.post("/predict", json={"instances": rows}).json()
        assert (predict["detail"], predict["errors"]) == (
            "refused (row 2 of 2)",
            [{"detail": "refused", "pointer": "#/instances/1"}],
        )
        assert client.post(INVOCATIONS, json={"inputs": rows}).json()["message"] == "refused (row 2 of 2)"
        columns_of = [tensor("a", "INT64", [2], [1, 3]), tensor("b", "BYTES", [2], ["", REFUSED])]
        assert client.post(INFER, json={"inputs": columns_of}).json()["error"] == "refused (row 2 of 2)"
        single = client.post("/predict", json={"features": [1, REFUSED]}).json()
        assert (single["detail"], single["errors"]) == ("refused", [{"detail": "refused", "pointer": "#"}])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            [tensor("v", "BYTES", [1], ["[1"]), tensor("o", "BYTES", [1], ["{}"])],
            "inputs.0 (v).data.0: the text is not JSON",
        ),
        (
            [tensor("v", "FP64", [2], [1, 2]), tensor("o", "BYTES", [2], ["{}"] * 2)],
            "inputs.0 (v) must have the rows in its first",
        ),
        (
            [tensor("v", "FP64", [1, 2], [1, None]), tensor("o", "BYTES", [1], ['{"a": 1}'])],
            "inputs.0.data.0.1 must be a number, got null",
        ),
        (
            [tensor("v", "BYTES", [1], [None]), tensor("o", "BYTES", [1], ['{"a": 1}'])],
            "inputs.0.data.0 must be a list, got null",
        ),
    ],
)
def test_wrong_text_of_json_is_found(tensors: list[Any], message: str) -> None:
    """The error for a list or an object in V2 has the tensor, the row and the place inside the value."""
    with served(NESTED) as client:
        answer = client.post(INFER, json={"inputs": tensors})
    assert answer.status_code == 400
    assert message in answer.json()["error"]
