"""The supported part of the Open Inference Protocol in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from server.http.openapi import parameters
from server.http.openapi.parts import (
    any_of,
    array_schema,
    get_operation,
    object_schema,
    open_object_schema,
    ref,
    response,
)
from server.inference.model import Model
from server.protocols.json_codec import JSON
from server.protocols.tensors import DATATYPES, example_tensors

TAG = "Open Inference Protocol"

_ERRORS: Mapping[str, str] = {
    "400": "The body cannot be read, or its tensors do not match the model",
    "413": "The body is too large",
    "415": "The Content-Type is not application/json",
    "500": "An unexpected error, logged by the server",
    "503": "The queue is full or the worker is stopping; try again after Retry-After seconds",
}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}


def paths(model: Model) -> dict[str, Any]:
    """Return every path of the protocol, with the name and the version of the served model filled in."""
    items = {
        "/v2": {"get": get_operation("v2_server", "The server's name and version", TAG, ref("V2ServerMetadata"))},
        "/v2/health/live": {"get": get_operation("v2_live", "The worker is alive", TAG, ref("V2ServerLive"))},
        "/v2/health/ready": {"get": _ready("v2_ready", "V2ServerReady")},
    }
    root = f"/v2/models/{quote(model.name)}"
    for name, path in (("v2_model", root), ("v2_version", f"{root}/versions/{quote(model.version)}")):
        items[path] = {"get": get_operation(name, "The model's tensors", TAG, ref("V2ModelMetadata"))}
        items[f"{path}/ready"] = {"get": _ready(f"{name}_ready", "V2ModelReady")}
        items[f"{path}/infer"] = {"post": _infer(f"{name}_infer")}
    return items


def _ready(name: str, component: str) -> dict[str, Any]:
    operation = get_operation(name, "The worker accepts requests", TAG, ref(component))
    operation["responses"]["503"] = response("The worker is draining", ref("V2Error"))
    return operation


def _infer(name: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": "Predict rows: one tensor per column, of shape [n] or [n, 1], or one of shape [n, k] for all",
        "tags": [TAG],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("V2InferRequest")}}},
        "responses": {
            "200": response("The predictions as tensors", ref("V2InferResponse")),
            **{status: response(description, ref("V2Error")) for status, description in _ERRORS.items()},
        },
    }


def schemas(model: Model, _max_rows: int) -> dict[str, Any]:
    """Return the schemas of the request, the responses and the error."""
    size = {"type": "integer", "minimum": 0}
    tensor = {
        "name": {"type": "string", "minLength": 1},
        "shape": array_schema(size, minItems=1, maxItems=8),
        "datatype": ref("V2Datatype"),
        "data": array_schema(),
    }
    described = {"name": _TEXT, "datatype": _TEXT, "shape": array_schema({"type": "integer"})}
    tensors = array_schema(ref("V2TensorMetadata"))
    return {
        "V2InferRequest": {
            **object_schema(
                {"inputs": array_schema(ref("V2InputTensor"), minItems=1)},
                optional={
                    "id": {"type": ["string", "null"]},
                    "outputs": {**array_schema(ref("V2RequestedOutput")), "type": ["array", "null"]},
                    "parameters": any_of(ref("V2Parameters"), {"type": "null"}),
                },
                closed=False,
            ),
            "examples": [{"inputs": example_tensors(model.schema, model.example)}],
        },
        "V2InputTensor": object_schema(tensor, closed=False),
        "V2RequestedOutput": object_schema({"name": _TEXT}, closed=False),
        "V2InferResponse": object_schema(
            {"model_name": _TEXT, "model_version": _TEXT, "outputs": array_schema(ref("V2OutputTensor"))},
            optional={"id": _TEXT},
        ),
        "V2OutputTensor": object_schema(tensor, optional={"parameters": open_object_schema()}),
        "V2Parameters": parameters.open_schema(model.parameters),
        "V2Datatype": {"type": "string", "enum": list(DATATYPES)},
        "V2ServerMetadata": object_schema({"name": _TEXT, "version": _TEXT, "extensions": array_schema(_TEXT)}),
        "V2ServerLive": object_schema({"live": _FLAG}),
        "V2ServerReady": object_schema({"ready": _FLAG}),
        "V2ModelMetadata": object_schema(
            {"name": _TEXT, "versions": array_schema(_TEXT), "platform": _TEXT, "inputs": tensors, "outputs": tensors}
        ),
        "V2TensorMetadata": object_schema(described),
        "V2ModelReady": object_schema({"name": _TEXT, "ready": _FLAG}),
        "V2Error": object_schema({"error": _TEXT}),
    }
