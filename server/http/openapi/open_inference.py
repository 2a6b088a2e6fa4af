"""The Open Inference Protocol in the OpenAPI document, as far as this server speaks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from server.http.openapi.parts import answer, get, obj, ref
from server.inference.model import Model
from server.protocols.json_codec import JSON
from server.protocols.tensors import DATATYPES, KINDS

TAG = "Open Inference Protocol"

_ERRORS: Mapping[str, str] = {
    "400": "The body cannot be read, or its tensors are not those of the model",
    "413": "The body is too large",
    "415": "The body is declared as something else than application/json",
    "500": "Something unforeseen, logged by the server",
    "503": "The queue is full or the worker is stopping; try again after Retry-After seconds",
}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}


def paths(model: Model) -> dict[str, Any]:
    """Every path of the protocol, with the name and the version of the one model that is served."""
    found = {
        "/v2": {"get": get("v2_server", "The server's name and version", TAG, ref("V2Server"))},
        "/v2/health/live": {"get": get("v2_live", "The worker is alive", TAG, obj({"live": _FLAG}))},
        "/v2/health/ready": {"get": _ready("v2_ready", obj({"ready": _FLAG}))},
    }
    root = f"/v2/models/{quote(model.name)}"
    for name, path in (("v2_model", root), ("v2_version", f"{root}/versions/{quote(model.version)}")):
        found[path] = {"get": get(name, "The model's tensors", TAG, ref("V2Model"))}
        found[f"{path}/ready"] = {"get": _ready(f"{name}_ready", obj({"name": _TEXT, "ready": _FLAG}))}
        found[f"{path}/infer"] = {"post": _infer(f"{name}_infer")}
    return found


def _ready(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    operation = get(name, "The worker takes requests", TAG, schema)
    operation["responses"]["503"] = answer("The worker is draining", ref("V2Error"))
    return operation


def _infer(name: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": "Predict rows: one tensor a column, of shape [n] or [n, 1], or one of shape [n, k] for all",
        "tags": [TAG],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("V2Request")}}},
        "responses": {
            "200": answer("The predictions as tensors", ref("V2Response")),
            **{status: answer(words, ref("V2Error")) for status, words in _ERRORS.items()},
        },
    }


def schemas(model: Model, _max_rows: int) -> dict[str, Any]:
    """A request, the answers and the error."""
    size = {"type": "integer", "minimum": 0}
    tensor = {
        "name": {"type": "string", "minLength": 1},
        "shape": {"type": "array", "items": size, "minItems": 1, "maxItems": 2},
        "datatype": {"enum": list(KINDS)},
        "data": {"type": "array"},
    }
    output = obj({"name": _TEXT}, closed=False)
    request = obj(
        {"inputs": {"type": "array", "items": obj(tensor, closed=False), "minItems": 1}},
        optional={"id": {"type": ["string", "null"]}, "outputs": {"type": ["array", "null"], "items": output}},
        closed=False,
    )
    described = {"name": _TEXT, "datatype": _TEXT, "shape": {"type": "array", "items": {"type": "integer"}}}
    tensors = {"type": "array", "items": obj(described)}
    return {
        "V2Request": {**request, "examples": [_example(model)]},
        "V2Response": obj(
            {"model_name": _TEXT, "model_version": _TEXT, "outputs": {"type": "array", "items": obj(tensor)}},
            optional={"id": _TEXT},
        ),
        "V2Server": obj({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array"}}),
        "V2Model": obj(
            {
                "name": _TEXT,
                "versions": {"type": "array", "items": _TEXT},
                "platform": _TEXT,
                "inputs": tensors,
                "outputs": tensors,
            }
        ),
        "V2Error": obj({"error": _TEXT}),
    }


def _example(model: Model) -> dict[str, Any]:
    columns = [column for column in model.schema.columns if model.example.get(column.name) is not None]
    return {
        "inputs": [
            {"name": c.name, "shape": [1, 1], "datatype": DATATYPES[c.type], "data": [model.example[c.name]]}
            for c in columns
        ]
    }
