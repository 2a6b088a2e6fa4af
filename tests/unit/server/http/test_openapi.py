"""The OpenAPI document: valid in itself, and true of what the app takes and answers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # its types are a package of their own
from openapi_spec_validator import validate

from server.errors import InvalidRows
from server.http.app import create_app
from server.http.openapi import openapi_document
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.settings import Settings
from tests.support.models.served_models import served_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have httpx2, and still takes httpx
    from starlette.testclient import TestClient

MAX_ROWS = 3
FLOAT32 = (2 - 2.0**-23) * 2.0**127
SCHEMA = InputSchema.from_signature(
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
)
LIST = [2596, 3.5, 51, 0.5, True, "clay", "dry", 0.25]
ROW = dict(zip(SCHEMA.names, LIST, strict=True))
BARE = {name: ROW[name] for name in SCHEMA.names[:6]}


class Engine:
    """Seven, without a probability for a row on wild ground."""

    name = "fake"
    frames = False

    def predict(self, rows: Rows) -> Prediction:
        if (rows.numbers[:, 0] == 1859).any():
            raise LookupError("unforeseen")
        return Prediction([7] * len(rows), None if rows.numbers[:, 4].any() else [0.5] * len(rows))


MODEL = served_model(Engine(), schema=SCHEMA, example=ROW)
DOCUMENT = openapi_document(MODEL, MAX_ROWS)
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]

GOOD: list[object] = [
    ROW,
    BARE,
    {**ROW, "elevation": 3000.0, "note": None, "depth": None},
    {**ROW, "elevation": 1860, "slope": 66.5},
    {"features": LIST},
    {"features": [*LIST[:6], None, None]},
    {"instances": [ROW]},
    {"instances": [ROW, LIST, BARE]},
]
BAD: list[object] = [
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
    """Of one of the document's schemas, with the others to refer to."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = Settings.from_env({"MAX_PENDING": str(MAX_ROWS), "MAX_BODY_BYTES": "1000", "REPLICA": "one"})
    with TestClient(create_app(settings, MODEL), raise_server_exceptions=False) as client:
        yield client


def test_document_is_valid_openapi_3_1() -> None:
    """The document is OpenAPI 3.1 and carries the model's name and version."""
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["title"] == "hills on Forkcast"
    assert DOCUMENT["info"]["version"] == "7"
    assert "trained on: synthetic" in DOCUMENT["info"]["description"]
    assert "trained on: not recorded" in openapi_document(replace(MODEL, trained_on=None), 1)["info"]["description"]


def test_every_schema_is_one() -> None:
    """Each component is a JSON Schema of the 2020-12 draft."""
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_served_document_matches_model_and_limits(client: TestClient) -> None:
    """/openapi.json is this document, made from the model and the limits of the replica."""
    assert client.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_example_matches_its_schema(name: str) -> None:
    """Every example in the document is an instance of the schema beside it."""
    schema = SCHEMAS[name]
    examples = schema.get("examples", [])
    assert examples or name not in ("Query", "Features", "Values")
    for example in examples:
        validator(schema).validate(example)


def test_columns_appear_with_type_and_range() -> None:
    """Each column appears with its type and its range, the model's or its type's; an optional one may be null."""
    assert SCHEMAS["Features"]["properties"] == {
        "elevation": {"type": "integer", "format": "int64", "minimum": 1859, "maximum": 3858},
        "slope": {"type": "number", "format": "double", "minimum": 0, "maximum": 66.5},
        "aspect": {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
        "shade": {"type": "number", "format": "float", "minimum": -FLOAT32, "maximum": FLOAT32},
        "wild": {"type": "boolean"},
        "soil": {"type": "string"},
        "note": {"type": ["string", "null"]},
        "depth": {"type": ["number", "null"], "format": "double", "minimum": -1, "maximum": 1},
    }
    assert SCHEMAS["Features"]["required"] == list(BARE)
    assert SCHEMAS["Values"]["prefixItems"] == list(SCHEMAS["Features"]["properties"].values())


@pytest.mark.parametrize("query", GOOD, ids=repr)
def test_request_allowed_by_schema_is_predicted(query: object, client: TestClient) -> None:
    """A request that the schema allows is answered with a prediction, in the form that the document gives."""
    validator(SCHEMAS["Query"]).validate(query)
    assert answered(client, "POST", "/predict", json=query) == 200


@pytest.mark.parametrize("query", BAD, ids=repr)
def test_schema_refuses_what_the_parser_refuses(query: object) -> None:
    """What the parser refuses, the schema refuses, too."""
    with pytest.raises(InvalidRows):
        SCHEMA.parse(query, MAX_ROWS)
    assert not validator(SCHEMAS["Query"]).is_valid(query)


def test_model_without_metadata_has_a_valid_document() -> None:
    """A model with nothing but a signature has a valid document, with an example and no ranges."""
    schema = InputSchema.from_signature([{"type": "double"}, {"type": "double"}], {})
    document = openapi_document(replace(MODEL, schema=schema, trained_on=None, example={"0": 0.0, "1": 0.0}), 1)
    validate(document)
    assert document["components"]["schemas"]["Values"]["prefixItems"] == [{"type": "number", "format": "double"}] * 2


def answered(client: TestClient, method: str, path: str, **request: Any) -> int:
    """Send a request, hold the answer against what the document says of it, and give its status."""
    answer = client.request(method, path, **request)
    documented = DOCUMENT["paths"][path][method.lower()]["responses"][str(answer.status_code)]["content"]
    schema = documented[answer.headers["content-type"]]["schema"]
    validator(schema).validate(answer.json())
    return int(answer.status_code)


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_get_responses_match_the_document(client: TestClient, path: str) -> None:
    """What the app answers to GET is what the document says."""
    assert answered(client, "GET", path) == 200


@pytest.mark.parametrize(
    ("status", "request_of"),
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
def test_predict_responses_match_the_document(client: TestClient, status: int, request_of: dict[str, Any]) -> None:
    """Predictions and problems are what the document says of their status."""
    assert answered(client, "POST", "/predict", **request_of) == status


def test_draining_responses_match_the_document() -> None:
    """So are the answers of a worker that stops."""
    with TestClient(create_app(Settings.from_env({}), MODEL)) as client:
        client.app_state["worker"].draining = True
        client.app_state["worker"].batcher.close()
        assert answered(client, "GET", "/ready") == 503
        assert answered(client, "POST", "/predict", json=ROW) == 503


def test_the_load_balancers_answers() -> None:
    """Every operation has the problem documents that Nginx answers in its place, beside those of its own protocol."""
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
    """What MLflow's server answers as JSON that is none, is here, too, and the document promises nothing of it."""
    answer = client.get(path)
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, text, "application/json")
    assert "content" not in DOCUMENT["paths"][path]["get"]["responses"]["200"]


def test_problems_are_told_apart() -> None:
    """The schema of a problem takes no answer of another kind."""
    problem = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "there is no /x"}
    assert validator(SCHEMAS["Problem"]).is_valid(problem)
    assert not validator(SCHEMAS["Problem"]).is_valid({**problem, "errors": [{"detail": "x"}]})
    assert not validator(SCHEMAS["Problem"]).is_valid({**problem, "traceback": "x"})
    assert not validator(SCHEMAS["Problem"]).is_valid({"prediction": 1})
