"""A model of each form of rows, which predicts what it got, and an application that serves it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from server.engines.model_input import to_model_input
from server.errors import Fault, InvalidRows
from server.inference.columns import Column
from server.inference.rows import NO_OPTIONS, Options, Prediction, Rows
from server.inference.schema import Form, InputSchema
from server.inference.signature import RECORDS, schema_from_signature, schema_of_names, schema_of_width
from tests.support.models.mirror_app import TestClient, client_of

INFER = "/v2/models/echo/infer"
# The model refuses a call with this text in any row, and names the last row.
REFUSED = "refused"


class Echo:
    """An engine that predicts the values of each row as text, and the parameters of the call if there are any."""

    name = "echo"
    uses_pandas = True

    def __init__(self, schema: InputSchema) -> None:
        self.schema = schema

    def predict(self, rows: Rows, options: Options = NO_OPTIONS) -> Prediction:
        data = to_model_input(rows, self.schema)
        if isinstance(data, dict):
            labels = [{name: _plain(values[i]) for name, values in data.items()} for i in range(len(rows))]
        else:
            values = data.to_dict("records") if self.schema.form is Form.FRAME or hasattr(data, "to_dict") else data
            labels = [_plain(value) for value in values]
        if any(isinstance(value, str) and value == REFUSED for value in rows.objects.flat):
            raise InvalidRows("refused", [Fault("refused", "#")], len(rows) - 1)
        texts = [json.dumps(label, default=str) for label in labels]
        params = json.dumps(dict(options.params), default=str) if options.params else ""
        return Prediction([text + params for text in texts], None)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def tensors(*specs: tuple[str | None, str, list[int]]) -> InputSchema:
    inputs: list[dict[str, Any]] = [
        {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **({} if name is None else {"name": name})}
        for name, dtype, shape in specs
    ]
    return schema_from_signature(inputs, {})


def columns(**specs: Any) -> InputSchema:
    inputs = [{"name": name, **(spec if isinstance(spec, dict) else {"type": spec})} for name, spec in specs.items()]
    return schema_from_signature(inputs, {})


MATRIX = tensors((None, "float32", [-1, 2]))
FLAT = tensors((None, "float64", [-1]))
IMAGES = tensors((None, "uint8", [-1, 2, 2]))
TEXTS = tensors((None, "str", [-1]))
IMAGE = tensors(("image", "float32", [-1, 2]))
NAMED = tensors(("image", "float32", [-1, 2]), ("size", "int64", [-1]))
DATES = columns(when="datetime")
BINARY = columns(data="binary")
NESTED = columns(
    v={"type": "array", "items": {"type": "double"}}, o={"type": "object", "properties": {"a": {"type": "long"}}}
)
STRINGS = schema_from_signature([{"type": "string"}], {}, type_hint=True)
UNTYPED = schema_of_names(["a", "b"])
WIDTH = schema_of_width(2)
VALUES = InputSchema((Column("x0", "any"),), form=Form.ARRAY, is_flat=True)

EXAMPLES: dict[InputSchema, dict[str, Any]] = {
    MATRIX: {"x0": 1.0, "x1": 2.0},
    FLAT: {"x0": 1.0},
    IMAGES: {"x0": [[1, 2], [3, 4]]},
    TEXTS: {"x0": "a"},
    IMAGE: {"image": [1.0, 2.0]},
    NAMED: {"image": [1.0, 2.0], "size": 3},
    DATES: {"when": "2024-01-31"},
    BINARY: {"data": "YQ=="},
    NESTED: {"v": [1.0], "o": {"a": 1}},
    STRINGS: {"0": "a"},
    UNTYPED: {"a": 1, "b": "x"},
    WIDTH: {"x0": 1, "x1": 2},
    VALUES: {"x0": "a"},
    RECORDS: {"row": {"a": 1}},
}


@contextmanager
def served(schema: InputSchema, **changes: Any) -> Iterator[TestClient]:
    with client_of(Echo(schema), name="echo", schema=schema, example=EXAMPLES[schema], **changes) as client:
        yield client


def labels(answer: httpx.Response) -> list[Any]:
    """Return the labels of an answer of any protocol, as the values that the model got."""
    document = answer.json()
    assert answer.status_code == 200, document
    texts = document["outputs"][0]["data"] if "outputs" in document else document["predictions"]
    return [json.loads(text) for text in texts]


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
