"""The OpenAPI document: it is valid, and matches the requests and responses of the app."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # Its types are in a separate package.
from openapi_spec_validator import validate

from server.errors import InvalidRows
from server.http.app import create_app
from server.http.openapi import openapi_document
from server.inference.rows import Prediction, Rows
from server.inference.signature import schema_from_signature
from server.settings import Settings
from tests.support.models.served_models import served_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers httpx2, and warns about httpx.
    from starlette.testclient import TestClient

MAX_ROWS = 3
FLOAT32 = (2 - 2.0**-23) * 2.0**127
SCHEMA = schema_from_signature(
    [
        {"name": "elevation", "type": "long"},
        {"name": "slope", "type": "double"},
        {"name": "aspect", "type": "integer"},
        {"name": "shade", "type": "float"},
        {"name": "wild", "type": "boolean"},
        {"name": "soil", "type": "string"},
        {"name": "note", "type": "string", "required": False},
        {"name": "depth", "type": "double", "required": False},
    ],
    {"elevation": [1859, 3858], "slope": [0, 66.5], "depth": [-1, 1]},
    {"slope": [0.5, 60], "shade": [0, 255]},
)
LIST = [2596, 3.5, 51, 0.5, True, "clay", "dry", 0.25]
ROW = dict(zip(SCHEMA.names, LIST, strict=True))
REQUIRED_ONLY = {name: ROW[name] for name in SCHEMA.names[:6]}


class Engine:
    """A fake engine that predicts 7, and has no confidences for rows with ``wild``."""

    name = "fake"
    uses_pandas = False

    def predict(self, rows: Rows) -> Prediction:
        if (rows.numbers[:, 0] == 1859).any():
            raise LookupError("unexpected")
        return Prediction([7] * len(rows), None if rows.numbers[:, 4].any() else [0.5] * len(rows))


MODEL = served_model(Engine(), schema=SCHEMA, example=ROW)
DOCUMENT = openapi_document(MODEL, MAX_ROWS)
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]

VALID_QUERIES: list[object] = [
    ROW,
    REQUIRED_ONLY,
    {**ROW, "elevation": 3000.0, "note": None, "depth": None},
    {**ROW, "elevation": 1860, "slope": 66.5},
    {"features": LIST},
    {"features": [*LIST[:6], None, None]},
    {"instances": [ROW]},
    {"instances": [ROW, LIST, REQUIRED_ONLY]},
]
INVALID_QUERIES: list[object] = [
    None,
    [],
    LIST,
    {},
    {**ROW, "extra": 1},
    {name: ROW[name] for name in SCHEMA.names[1:]},
    {**ROW, "elevation": 1858},
    {**ROW, "elevation": 3859},
    {**ROW, "elevation": 2596.5},
    {**ROW, "elevation": "2596"},
    {**ROW, "elevation": None},
    {**ROW, "slope": 66.6},
    {**ROW, "wild": 1},
    {**ROW, "soil": 4},
    {**ROW, "soil": None},
    {**ROW, "note": 4},
    {**ROW, "depth": 2},
    {"features": LIST[:-1]},
    {"features": [*LIST, 1]},
    {"features": ROW},
    {"features": LIST, "slope": 1},
    {"instances": []},
    {"instances": [ROW] * (MAX_ROWS + 1)},
    {"instances": ROW},
    {"instances": [[]]},
    {"instances": [ROW], "features": LIST},
]


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator of one schema, which can refer to the other schemas of the document."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = Settings.from_env({"MAX_PENDING": str(MAX_ROWS), "MAX_BODY_BYTES": "1000", "REPLICA": "one"})
    with TestClient(create_app(settings, MODEL), raise_server_exceptions=False) as client:
        yield client


def test_document_is_valid_openapi_3_1() -> None:
    """The document is OpenAPI 3.1 and has the model's name, version and training data."""
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["title"] == "hills on Forkcast"
    assert DOCUMENT["info"]["version"] == "7"
    assert "trained on: synthetic" in DOCUMENT["info"]["description"]
    assert "trained on: not recorded" in openapi_document(replace(MODEL, trained_on=None), 1)["info"]["description"]


def test_every_component_is_a_json_schema() -> None:
    """Each component is a valid JSON Schema of draft 2020-12."""
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_served_document_matches_model_and_limits(client: TestClient) -> None:
    """/openapi.json is the document for the model and the limits of the replica."""
    assert client.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))


def test_inline_schemas_need_no_invented_names() -> None:
    """Only components are objects with properties, or have values of an enumeration; every array says its items."""
    for name, schema in SCHEMAS.items():
        for inner in inner_schemas(schema):
            assert not {"properties", "enum"} & set(inner) or inner is schema, name
            assert inner.get("type") != "array" or {"items", "prefixItems"} & set(inner), name
            assert not isinstance(inner.get("items"), bool), name
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            bodies = [*operation["responses"].values(), operation.get("requestBody", {})]
            for content in (content for body in bodies for content in body.get("content", {}).values()):
                assert set(content["schema"]) == {"$ref"} or content["schema"] == {"type": "string"}


def inner_schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    yield schema
    for keyword in ("properties", "items", "prefixItems", "anyOf", "oneOf"):
        inner = schema.get(keyword, [])
        inner = inner.values() if keyword == "properties" and inner else inner
        for child in [inner] if isinstance(inner, dict) else inner:
            yield from inner_schemas(child)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_example_matches_its_schema(name: str) -> None:
    """Every example in the document is valid under the schema that contains it."""
    schema = SCHEMAS[name]
    examples = schema.get("examples", [])
    assert examples or name not in ("PredictRequest", "Features", "FeatureList")
    for example in examples:
        validator(schema).validate(example)


def test_columns_appear_with_type_and_range() -> None:
    """Each column has its type, the range of the model or of the type, and the range observed in training, if any."""
    assert SCHEMAS["Features"]["properties"] == {
        "elevation": {"type": "integer", "format": "int64", "minimum": 1859, "maximum": 3858},
        "slope": {
            "type": "number",
            "format": "double",
            "minimum": 0,
            "maximum": 66.5,
            "description": "Observed in training: 0.5 to 60",
            "x-observed": [0.5, 60],
        },
        "aspect": {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
        "shade": {
            "type": "number",
            "format": "float",
            "minimum": -FLOAT32,
            "maximum": FLOAT32,
            "description": "Observed in training: 0 to 255",
            "x-observed": [0, 255],
        },
        "wild": {"type": "boolean"},
        "soil": {"type": "string"},
        "note": {"type": ["string", "null"]},
        "depth": {"type": ["number", "null"], "format": "double", "minimum": -1, "maximum": 1},
    }
    assert SCHEMAS["Features"]["required"] == list(REQUIRED_ONLY)


def test_values_of_a_list_have_the_limits_of_their_columns() -> None:
    """A row as a list has the columns' schemas in order; those with limits are components with readable names."""
    values = SCHEMAS["FeatureList"]["prefixItems"]
    names = [value["$ref"].rpartition("/")[2] if "$ref" in value else "" for value in values]
    assert names == ["ElevationValue", "SlopeValue", "IntegerValue", "FloatValue", "", "", "", "DepthValue"]
    resolved = [SCHEMAS[name] if name else value for name, value in zip(names, values, strict=True)]
    annotations = ("description", "x-observed")
    columns = [without(column, *annotations) for column in SCHEMAS["Features"]["properties"].values()]
    assert resolved == columns


def without(schema: dict[str, Any], *keywords: str) -> dict[str, Any]:
    return {keyword: value for keyword, value in schema.items() if keyword not in keywords}


def test_value_names_are_unique_and_valid() -> None:
    """Columns whose names are equal as class names, or have letters that are no ASCII, are named by their position."""
    names = ["a b", "A_b", "ä", "42", "long", "total"]
    columns = [{"name": name, "type": "double"} for name in names[:-1]] + [{"name": "total", "type": "long"}]
    schema = schema_from_signature(columns, {name: [0, i + 1] for i, name in enumerate(names[:-1])})
    document = openapi_document(replace(MODEL, schema=schema, example=dict.fromkeys(names, 0)), 1)
    validate(document)
    assert [
        value["$ref"].rpartition("/")[2] for value in document["components"]["schemas"]["FeatureList"]["prefixItems"]
    ] == [
        "ABValue",
        "Column1Value",
        "Column2Value",
        "Column3Value",
        "Column4Value",
        "LongValue",
    ]


@pytest.mark.parametrize("query", VALID_QUERIES, ids=repr)
def test_request_allowed_by_schema_is_predicted(query: object, client: TestClient) -> None:
    """A request that the schema allows gets a prediction, in the documented form."""
    validator(SCHEMAS["PredictRequest"]).validate(query)
    assert documented_status(client, "POST", "/predict", json=query) == 200


@pytest.mark.parametrize("query", INVALID_QUERIES, ids=repr)
def test_schema_rejects_what_the_parser_rejects(query: object) -> None:
    """A request that the parser rejects is invalid under the schema."""
    with pytest.raises(InvalidRows):
        SCHEMA.parse(query, MAX_ROWS)
    assert not validator(SCHEMAS["PredictRequest"]).is_valid(query)


def test_model_without_metadata_has_a_valid_document() -> None:
    """The document of a model that has only a signature is valid, and has no ranges."""
    schema = schema_from_signature([{"type": "double"}, {"type": "double"}], {})
    document = openapi_document(replace(MODEL, schema=schema, trained_on=None, example={"0": 0.0, "1": 0.0}), 1)
    validate(document)
    assert document["components"]["schemas"]["FeatureList"] == {
        "type": "array",
        "items": {"type": "number", "format": "double"},
        "minItems": 2,
        "maxItems": 2,
        "examples": [[0.0, 0.0]],
    }


def test_feature_named_as_a_wrapper_is_a_feature() -> None:
    """A model with a feature ``features`` takes rows by name and ``instances``, but no row as ``features``."""
    schema = schema_from_signature([{"name": "features", "type": "double"}], {})
    document = openapi_document(replace(MODEL, schema=schema, example={"features": 1.5}), 1)
    validate(document)
    forms = document["components"]["schemas"]["PredictRequest"]["anyOf"]
    assert [form["$ref"].rpartition("/")[2] for form in forms] == ["Features", "PredictInstances"]


def documented_status(client: TestClient, method: str, path: str, **request: Any) -> int:
    """Send a request, check that its answer is valid under the document, and return the status."""
    answer = client.request(method, path, **request)
    documented = DOCUMENT["paths"][path][method.lower()]["responses"][str(answer.status_code)]["content"]
    schema = documented[answer.headers["content-type"]]["schema"]
    validator(schema).validate(answer.json())
    return int(answer.status_code)


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_get_responses_match_the_document(client: TestClient, path: str) -> None:
    """Responses to GET match the document."""
    assert documented_status(client, "GET", path) == 200


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (200, {"json": {**ROW, "wild": False}}),
        (200, {"json": {"instances": [LIST]}}),
        (400, {"content": b"{", "headers": {"content-type": "application/json"}}),
        (413, {"json": {"x": "x" * 1000}}),
        (415, {"content": b"{}"}),
        (422, {"json": {"x": 1}}),
        (422, {"json": []}),
        (500, {"json": {**ROW, "elevation": 1859}}),
    ],
)
def test_predict_responses_match_the_document(client: TestClient, status: int, arguments: dict[str, Any]) -> None:
    """Predictions and problem documents match the document, by their status."""
    assert documented_status(client, "POST", "/predict", **arguments) == status


def test_draining_responses_match_the_document() -> None:
    """The 503 of a worker that is stopping matches the document."""
    with TestClient(create_app(Settings.from_env({}), MODEL)) as client:
        client.app_state["worker"].draining = True
        client.app_state["worker"].batcher.close()
        assert documented_status(client, "GET", "/ready") == 503
        assert documented_status(client, "POST", "/predict", json=ROW) == 503


def test_operations_document_load_balancer_errors() -> None:
    """Every operation has the problem documents of Nginx beside the errors of its own protocol."""
    for path, method in ((path, method) for path, item in DOCUMENT["paths"].items() for method in item):
        responses = DOCUMENT["paths"][path][method]["responses"]
        for status in ("400", "503", "504", *(["413"] if method == "post" else [])):
            assert responses[status]["content"]["application/problem+json"] == {
                "schema": {"$ref": "#/components/schemas/Problem"}
            }
    assert set(DOCUMENT["paths"]["/invocations"]["post"]["responses"]["413"]["content"]) == {
        "application/json",
        "application/problem+json",
    }


@pytest.mark.parametrize(("path", "text"), [("/ping", "\n"), ("/version", version("mlflow-skinny"))])
def test_mlflow_text_endpoints_declare_no_json_content(client: TestClient, path: str, text: str) -> None:
    """/ping and /version are not JSON despite their Content-Type, which is MLflow's, so no content is documented."""
    answer = client.get(path)
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, text, "application/json")
    assert "content" not in DOCUMENT["paths"][path]["get"]["responses"]["200"]


def test_problem_schema_rejects_other_documents() -> None:
    """The schema of a problem document rejects extra members, incomplete errors and predictions."""
    problem = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "there is no /x"}
    assert validator(SCHEMAS["Problem"]).is_valid(problem)
    assert not validator(SCHEMAS["Problem"]).is_valid({**problem, "errors": [{"detail": "x"}]})
    assert not validator(SCHEMAS["Problem"]).is_valid({**problem, "traceback": "x"})
    assert not validator(SCHEMAS["Problem"]).is_valid({"prediction": 1})
