"""``/predict`` in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.http.openapi.parts import answer, obj, problem, ref, value
from server.inference.model import Model
from server.protocols.json_codec import JSON

TAG = "predict"

_PROBLEMS: Mapping[str, str] = {
    "400": "The body is not JSON in UTF-8",
    "413": "The body is too large",
    "415": "The body is not declared as application/json",
    "422": "A feature is missing, unknown, of the wrong type or out of its range, or there are no or too many rows",
    "500": "Something unforeseen, logged by the server",
    "503": "The queue is full or the worker is stopping; try again after Retry-After seconds",
}


def paths(_model: Model) -> dict[str, Any]:
    """Its one operation."""
    found = "A prediction for one row, or predictions for `instances`, in their order"
    operation = {
        "operationId": "predict",
        "summary": "Predict one row, or many",
        "tags": [TAG],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("Query")}}},
        "responses": {
            "200": answer(found, {"anyOf": [ref("One"), ref("Many")]}),
            **{status: problem(description) for status, description in _PROBLEMS.items()},
        },
    }
    return {"/predict": {"post": operation}}


def schemas(model: Model, max_rows: int) -> dict[str, Any]:
    """A request in its three forms, and the two answers."""
    example = model.example
    row = {"anyOf": [ref("Features"), ref("Values")]}
    return {
        "Features": _features(model, example),
        "Values": _values(model, example),
        "Listed": obj({"features": ref("Values")}),
        "Instances": obj({"instances": {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}}),
        "Query": {"anyOf": [ref("Features"), ref("Listed"), ref("Instances")], "examples": [example]},
        "One": obj({"prediction": {}, "confidence": {}, "model_version": {"type": "string"}}),
        "Many": obj(
            {"predictions": {"type": "array"}, "confidences": {"type": "array"}, "model_version": {"type": "string"}}
        ),
    }


def _features(model: Model, example: Mapping[str, object]) -> dict[str, Any]:
    columns = model.schema.columns
    return {
        "type": "object",
        "properties": {column.name: value(column) for column in columns},
        "required": [column.name for column in columns if column.required],
        "additionalProperties": False,
        "examples": [example],
    }


def _values(model: Model, example: Mapping[str, object]) -> dict[str, Any]:
    """The features as a list, in the order of the signature."""
    columns = model.schema.columns
    return {
        "type": "array",
        "prefixItems": [value(column) for column in columns],
        "items": False,
        "minItems": len(columns),
        "examples": [[example.get(column.name) for column in columns]],
    }
