"""The OpenAPI document of models whose rows are no plain columns: tensors, texts, objects, or of no known form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # Its types are in a separate package.
from openapi_spec_validator import validate

from server.errors import InvalidRows
from server.http.app import create_app
from server.http.openapi import openapi_document
from server.inference.columns import Policy
from server.inference.model import Model
from server.inference.parameters import NO_PARAMETERS, Parameters
from server.inference.rows import Prediction
from server.inference.schema import InputSchema
from server.inference.signature import (
    RECORDS,
    schema_from_signature,
    schema_of_estimator,
    schema_of_names,
    schema_of_width,
)
from server.settings import Settings
from tests.support.fuzzing import config, fuzz, operations
from tests.support.models.served_models import FakeEngine, served_model

MAX_ROWS = 3
PARAMETERS = Parameters.from_signature(
    [
        {"name": "temperature", "type": "double", "default": 0.5, "shape": None},
        {"name": "stop", "type": "string", "default": ["a"], "shape": [-1]},
        {"name": "since", "type": "datetime", "default": "2024-01-01T00:00:00", "shape": None},
        {"name": "seed", "type": "long", "default": None, "shape": None},
    ]
)
PLACE = {"lat": {"type": "double"}, "floor": {"type": "integer", "required": False}}


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    """Return an input of an MLflow signature: a tensor with any number of rows of this shape."""
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}
    return spec if name is None else {**spec, "name": name}


@dataclass(frozen=True)
class Case:
    """A schema with an example row, and requests that are valid and invalid under it."""

    schema: InputSchema
    row: list[Any]
    valid: tuple[object, ...]
    invalid: tuple[object, ...]
    parameters: Parameters = NO_PARAMETERS

    def model(self, name: str) -> Model:
        return served_model(
            FakeEngine(lambda rows: Prediction([0] * len(rows), None)),
            name=name,
            schema=self.schema,
            example=dict(zip(self.schema.names, self.row, strict=True)),
            parameters=self.parameters,
        )


CASES: Mapping[str, Case] = {
    "numbers": Case(
        schema_from_signature([tensor("float64", 3)], {}),
        [1.5, 2, 3],
        ({"features": [1.5, None, 3]}, {"x0": 1, "x1": 2, "x2": 3}, {"instances": [[1, 2, 3]]}),
        ({"features": [1, 2]}, {"features": [1, 2, "3"]}, {"x0": 1, "x1": 2}, {"instances": [1, 2, 3]}),
    ),
    "bytes": Case(
        schema_from_signature([tensor("int8", 2)], {}),
        [-128, 127],
        ({"features": [0, 1]},),
        ({"features": [0, 128]}, {"features": [None, 1]}, {"features": [0.5, 1]}),
    ),
    "images": Case(
        schema_from_signature([tensor("float32", 2, 2)], {}),
        [[[1, 2], [3, 4]]],
        ({"features": [[1, 2], [3, 4]]}, {"instances": [[[1, 2], [3, 4]]]}, {"x0": [[1, 2], [3, None]]}),
        (
            {"features": [1, 2]},
            {"features": [[1, 2], [3, True]]},
            {"features": [[1, 2], [3, 1e300]]},
            {"features": [[[1, 2], [3, 4]]]},
            {"instances": [[1, 2], [3, 4]]},
            {"x0": [[1, 2]]},
        ),
    ),
    "texts": Case(
        schema_from_signature([tensor("str")], {}),
        ["good"],
        ({"features": "good"}, {"features": ["good"]}, {"instances": ["good", ["bad"], {"x0": "fair"}]}),
        ({"features": 1}, {"features": ["good", "bad"]}, {"instances": "good"}, {"instances": [None]}),
    ),
    "named_tensors": Case(
        schema_from_signature(
            [tensor("float32", 2, name="a"), tensor("int8", name="b"), tensor("int64", name="c")], {}
        ),
        [[1, 2], 3, 4],
        ({"a": [1, 2], "b": 3, "c": 4}, {"features": [[1, 2], 3, 4]}),
        ({"a": [1], "b": 3, "c": 4}, {"a": [1, 2], "b": 300, "c": 4}, {"a": [1, 2], "b": 3}),
    ),
    "columns": Case(
        schema_from_signature(
            [
                {"name": "when", "type": "datetime"},
                {"name": "image", "type": "binary", "required": False},
                {"name": "tags", "type": "array", "items": {"type": "string"}},
                {"name": "place", "type": "object", "properties": PLACE},
                {"name": "counts", "type": "map", "values": {"type": "long"}},
            ],
            {},
        ),
        ["2024-01-31T12:00:00Z", "aGk=", ["a"], {"lat": 1}, {"a": 1}],
        ({"when": "2024-01-31T12:00:00Z", "tags": [], "place": {"lat": 1, "floor": 2}, "counts": {}},),
        (
            {"when": 1, "tags": [], "place": {"lat": 1}, "counts": {}},
            {"when": "2024-01-31T12:00:00Z", "tags": [1], "place": {"lat": 1}, "counts": {}},
            {"when": "2024-01-31T12:00:00Z", "tags": [], "place": {"lon": 1}, "counts": {}},
            {"when": "2024-01-31T12:00:00Z", "tags": [], "place": {"lat": 1}, "counts": {"a": 0.5}},
        ),
    ),
    "objects": Case(
        schema_from_signature([{"type": "object", "properties": {"q": {"type": "string"}}}], {}, type_hint=True),
        [{"q": "why"}],
        ({"q": "why"}, {"k": 1}, {"features": {"q": "why"}}, {"instances": [{"q": "why"}]}, {"0": {"q": "why"}}),
        # The row may have any other property, so that the document cannot refuse a wrong value of "features".
        ({"q": 1}, {"q": None}, [{"q": "why"}]),
    ),
    "untyped": Case(
        schema_of_names(["size", "colour"]),
        [1.5, "red"],
        ({"size": 1, "colour": "red"}, {"size": "1", "colour": None}, {"features": [1, "red"]}),
        ({"size": 1}, {"size": 1, "colour": "red", "weight": 1}, {"features": [1]}),
    ),
    "untyped_array": Case(
        schema_of_width(2), [1.5, 2], ({"features": [1, "a"]}, {"x0": 1, "x1": None}), ({"features": [1]}, {"x0": 1})
    ),
    "untyped_texts": Case(
        schema_of_estimator(object()),
        ["good"],
        ({"features": "good"}, {"features": ["good"]}, {"instances": ["good", 1]}),
        ({"features": ["good", "bad"]}, {"instances": [[]]}, {"text": "good"}),
    ),
    "records": Case(
        RECORDS,
        [{"a": 1, "b": "c"}],
        ({"a": 1}, {"features": [1, {}]}, {"instances": [{"a": 1}, 2]}),
        ([], {"instances": []}, {"instances": {"a": 1}}),
    ),
    "parameters": Case(
        schema_of_names(["x"]),
        [1],
        (
            {"features": [1], "params": {"temperature": 1, "stop": [], "since": "2024-01-31T12:00:00Z"}},
            {"instances": [[1]], "params": {"temperature": None}},
            {"instances": [[1]], "params": None},
        ),
        (
            {"features": [1], "params": {"heat": 1}},
            {"features": [1], "params": {"temperature": "1"}},
            {"features": [1], "params": {"stop": "a"}},
            {"x": 1, "params": {"temperature": 1}},
        ),
        PARAMETERS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_document_and_its_examples_are_valid(name: str) -> None:
    """The document is OpenAPI 3.1, and its examples are valid under the schemas that contain them."""
    document = openapi_document(CASES[name].model(name), MAX_ROWS)
    validate(document)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        for example in schema.get("examples", []):
            Draft202012Validator({**schema, "components": document["components"]}).validate(example)
    assert "properties" in schemas["Features"]


@pytest.mark.parametrize("name", CASES)
def test_schema_allows_what_the_parser_accepts(name: str) -> None:
    """The parser accepts each valid request and refuses each invalid one, and the schema agrees."""
    case = CASES[name]
    document = openapi_document(case.model(name), MAX_ROWS)
    request = {**document["components"]["schemas"]["PredictRequest"], "components": document["components"]}
    for body in case.valid:
        case.parameters.parse(case.schema.parse(body, MAX_ROWS).params, "#/params", Policy.STRICT)
        Draft202012Validator(request).validate(body)
    for body in case.invalid:
        with pytest.raises(InvalidRows):
            case.parameters.parse(case.schema.parse(body, MAX_ROWS).params, "#/params", Policy.STRICT)
        assert not Draft202012Validator(request).is_valid(body), body


def test_parameters_have_their_types_and_defaults() -> None:
    """Declared parameters are in the document with their defaults; only `/predict` refuses others."""
    schemas = openapi_document(CASES["parameters"].model("parameters"), MAX_ROWS)["components"]["schemas"]
    assert schemas["PredictParams"]["properties"] == {
        "temperature": {"type": ["number", "null"], "format": "double", "default": 0.5},
        "stop": {"type": "array", "items": {"type": ["string", "null"]}, "default": ["a"]},
        "since": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "By default 2024-01-01T00:00:00",
        },
        "seed": {"type": ["integer", "null"], "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
    }
    for name, allows_others in (("PredictParams", False), ("InvocationParams", {}), ("V2Parameters", {})):
        assert schemas[name]["properties"] == schemas["PredictParams"]["properties"]
        assert schemas[name]["additionalProperties"] == allows_others
    untouched = openapi_document(CASES["untyped"].model("untyped"), MAX_ROWS)["components"]["schemas"]
    assert "PredictParams" not in untouched


@pytest.mark.parametrize("name", ["images", "texts", "named_tensors", "untyped", "records"])
def test_answers_to_any_request_match_the_document(name: str) -> None:
    """Every answer to a generated request for a prediction matches the document, and none is a 500."""
    settings = Settings.from_env({"REPLICA": "one", "MAX_BODY_BYTES": "100000", "MAX_PENDING": "50"})
    app = create_app(settings, CASES[name].model(name))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config(only_predictions=True))
    report = fuzz(schema)
    print(report)
    assert not report.failures
    assert report.succeeded == {operation for operation in operations(schema) if operation.startswith("POST")}
