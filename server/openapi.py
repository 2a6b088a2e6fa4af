"""The OpenAPI document of one model, made from its schema: its features, their ranges and an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.columns import Column
from server.model import Model
from server.protocol import JSON, PROBLEM_JSON

_TYPES: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
}
_PROBLEMS: Mapping[str, str] = {
    "400": "The body is not JSON in UTF-8",
    "413": "The body is too large",
    "415": "The body is not declared as application/json",
    "422": "A feature is missing, unknown, of the wrong type or out of its range, or there are no or too many rows",
    "500": "Something unforeseen, logged by the server",
    "503": "The queue is full or the worker is stopping; try again after Retry-After seconds",
}


def openapi_document(model: Model, max_rows: int) -> dict[str, Any]:
    """An OpenAPI 3.1 document; ``max_rows`` is the most rows that one request may have."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model.name} on Forkcast",
            "version": model.version,
            "description": f"Model `{model.uri}`, trained on: {model.trained_on or 'not recorded'}.",
        },
        "paths": {
            "/predict": {"post": _predict()},
            "/health": {"get": _get("health", "The worker is alive, and what it serves", "Health")},
            "/ready": {"get": _ready()},
            "/": {"get": _get("index", "What this is, and its links", "Index")},
        },
        "components": {"schemas": _schemas(model, max_rows)},
    }


def _predict() -> dict[str, Any]:
    return {
        "operationId": "predict",
        "summary": "Predict one row, or many",
        "requestBody": {"required": True, "content": {JSON: {"schema": _ref("Query")}}},
        "responses": {
            "200": {
                "description": "A prediction for one row, or predictions for `instances`, in their order",
                "content": {JSON: {"schema": {"anyOf": [_ref("One"), _ref("Many")]}}},
            },
            **{status: _problem(description) for status, description in _PROBLEMS.items()},
        },
    }


def _get(name: str, summary: str, schema: str) -> dict[str, Any]:
    answer = {"description": summary, "content": {JSON: {"schema": _ref(schema)}}}
    return {"operationId": name, "summary": summary, "responses": {"200": answer}}


def _ready() -> dict[str, Any]:
    operation = _get("ready", "The worker takes requests", "Ready")
    operation["responses"]["503"] = _problem("The worker is draining")
    return operation


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(model: Model, max_rows: int) -> dict[str, Any]:
    example = model.example
    row = {"anyOf": [_ref("Features"), _ref("Values")]}
    return {
        "Features": _features(model, example),
        "Values": _values(model, example),
        "Listed": _object({"features": _ref("Values")}),
        "Instances": _object({"instances": {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}}),
        "Query": {"anyOf": [_ref("Features"), _ref("Listed"), _ref("Instances")], "examples": [example]},
        "One": _object({"prediction": {}, "confidence": {}, "model_version": {"type": "string"}}),
        "Many": _object(
            {"predictions": {"type": "array"}, "confidences": {"type": "array"}, "model_version": {"type": "string"}}
        ),
        "Health": _object({"status": {"const": "ok"}, "model": {"type": "object"}}, closed=False),
        "Ready": _object({"status": {"const": "ready"}}),
        "Index": _object({"name": {"type": "string"}, "links": {"type": "object"}}, closed=False),
        "Problem": _problem_schema(),
    }


def _object(properties: Mapping[str, Any], *, closed: bool = True) -> dict[str, Any]:
    document = {"type": "object", "properties": dict(properties), "required": list(properties)}
    return {**document, "additionalProperties": False} if closed else document


def _features(model: Model, example: Mapping[str, object]) -> dict[str, Any]:
    columns = model.schema.columns
    return {
        "type": "object",
        "properties": {column.name: _value(column) for column in columns},
        "required": [column.name for column in columns if column.required],
        "additionalProperties": False,
        "examples": [example],
    }


def _values(model: Model, example: Mapping[str, object]) -> dict[str, Any]:
    """The features as a list, in the order of the signature."""
    columns = model.schema.columns
    return {
        "type": "array",
        "prefixItems": [_value(column) for column in columns],
        "items": False,
        "minItems": len(columns),
        "examples": [[example.get(column.name) for column in columns]],
    }


def _value(column: Column) -> dict[str, Any]:
    value: dict[str, Any] = {**_TYPES[column.type]}
    if column.limited:
        value |= {"minimum": column.low, "maximum": column.high}
    if not column.required:
        value["type"] = [value["type"], "null"]
    return value


def _problem_schema() -> dict[str, Any]:
    fault = _object({"detail": {"type": "string"}, "pointer": {"type": "string"}})
    document = _object(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        }
    )
    document["properties"]["errors"] = {"type": "array", "items": fault}
    return document
