"""``/predict`` in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.http.openapi.parts import column_schema, object_schema, problem_response, ref, response
from server.inference.model import Model
from server.protocols.json_codec import JSON

TAG = "predict"

_PROBLEMS: Mapping[str, str] = {
    "400": "The body is not JSON in UTF-8",
    "413": "The body is too large",
    "415": "The Content-Type is not application/json",
    "422": "A feature is missing, unknown, of the wrong type or out of its range, or there are no or too many rows",
    "500": "An unexpected error, logged by the server",
    "503": "The queue is full or the worker is stopping; try again after Retry-After seconds",
}


def paths(_model: Model) -> dict[str, Any]:
    """Return the path ``/predict`` with its operation."""
    success = "A prediction for one row, or predictions for `instances`, in their order"
    operation = {
        "operationId": "predict",
        "summary": "Predict one row or many",
        "tags": [TAG],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("Query")}}},
        "responses": {
            "200": response(success, {"anyOf": [ref("One"), ref("Many")]}),
            **{status: problem_response(description) for status, description in _PROBLEMS.items()},
        },
    }
    return {"/predict": {"post": operation}}


def schemas(model: Model, max_rows: int) -> dict[str, Any]:
    """Return the schemas of the three request forms and the two responses."""
    example = model.example
    row = {"anyOf": [ref("Features"), ref("Values")]}
    return {
        "Features": _features(model, example),
        "Values": _values(model, example),
        "Listed": object_schema({"features": ref("Values")}),
        "Instances": object_schema({"instances": {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}}),
        "Query": {"anyOf": [ref("Features"), ref("Listed"), ref("Instances")], "examples": [example]},
        "One": object_schema({"prediction": {}, "confidence": {}, "model_version": {"type": "string"}}),
        "Many": object_schema(
            {"predictions": {"type": "array"}, "confidences": {"type": "array"}, "model_version": {"type": "string"}}
        ),
    }


def _features(model: Model, example: Mapping[str, object]) -> dict[str, Any]:
    columns = model.schema.columns
    return {
        "type": "object",
        "properties": {column.name: column_schema(column) for column in columns},
        "required": [column.name for column in columns if column.required],
        "additionalProperties": False,
        "examples": [example],
    }


def _values(model: Model, example: Mapping[str, object]) -> dict[str, Any]:
    columns = model.schema.columns
    return {
        "type": "array",
        "prefixItems": [column_schema(column) for column in columns],
        "items": False,
        "minItems": len(columns),
        "examples": [[example.get(column.name) for column in columns]],
    }
