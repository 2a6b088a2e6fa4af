"""Building blocks of the OpenAPI document, shared by all protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from server.inference.columns import Column, show, tensor_column
from server.protocols.json_codec import JSON, PROBLEM_JSON

_TYPES: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "datetime": {"type": "string", "format": "date-time"},
    "binary": {"type": "string", "contentEncoding": "base64"},
}

# Errors that Nginx answers without asking a replica.
_LOAD_BALANCER_ERRORS: Mapping[str, str] = {
    "400": "The request is not well-formed HTTP",
    "413": "The body is too large",
    "503": "No replica could take the request; try again after Retry-After seconds",
    "504": "No replica answered in time",
}


def ref(name: str) -> dict[str, str]:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_schema(
    properties: Mapping[str, Any], *, optional: Mapping[str, Any] | None = None, closed: bool = True
) -> dict[str, Any]:
    """Return the schema of an object; if ``closed``, it allows no other properties."""
    optional = optional or {}
    document = {"type": "object", "properties": {**properties, **optional}, "required": list(properties)}
    return {**document, "additionalProperties": False} if closed else document


def open_object_schema(values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object with any properties. Without ``additionalProperties``, generators allow none."""
    return {"type": "object", "additionalProperties": dict(values or {})}


def array_schema(items: Mapping[str, Any] | None = None, **limits: int) -> dict[str, Any]:
    """Return the schema of an array, by default of any values. Client generators refuse arrays without ``items``."""
    return {"type": "array", "items": dict(items or {}), **limits}


def any_of(*schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of values that match at least one of ``schemas``, or the only schema itself."""
    return {"anyOf": list(schemas)} if len(schemas) > 1 else dict(schemas[0])


def value_schema(column: Column) -> dict[str, Any]:
    """Return the schema of a column's valid values."""
    schema: dict[str, Any] = {**_TYPES.get(column.type, {}), **_nested_schema(column)}
    # "format" limits nothing, so bounds are given: 2**53 for int64, and the largest finite number for float32.
    if column.has_range or column.is_integer or column.type == "float":
        schema |= {"minimum": column.low, "maximum": column.high}
    if (not column.required or column.nullable) and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    return schema


def _nested_schema(column: Column) -> dict[str, Any]:
    """Return the schema of the values inside a column's values; empty for a column of single values."""
    items = {} if column.items is None else value_schema(column.items)
    if column.type == "array":
        return array_schema(items)
    if column.type == "map":
        return open_object_schema(items)
    if column.type == "object":
        properties = {inner.name: value_schema(inner) for inner in column.properties}
        if column.is_open:
            return {**open_object_schema(), "properties": properties}
        required = [inner.name for inner in column.properties if inner.required]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if column.type == "tensor":
        schema = value_schema(tensor_column(column.name, np.dtype(column.dtype)))
        for size in reversed(column.shape):
            schema = array_schema(schema, **({} if size < 0 else {"minItems": size, "maxItems": size}))
        return schema
    return {}


def column_schema(column: Column) -> dict[str, Any]:
    """Return the schema of a column: its valid values, and what was observed in training, which limits nothing."""
    schema = value_schema(column)
    if column.observed:
        low, high = column.observed
        schema |= {"description": f"Observed in training: {show(low)} to {show(high)}", "x-observed": [low, high]}
    return schema


def response(description: str, schema: Mapping[str, Any], media_type: str = JSON) -> dict[str, Any]:
    """Return the description of a response with a body."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def problem_response(description: str) -> dict[str, Any]:
    """Return the description of a response that is a problem document (RFC 9457)."""
    return response(description, ref("Problem"), PROBLEM_JSON)


def get_operation(name: str, summary: str, tag: str, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a GET operation with one response, which has a JSON body unless ``schema`` is None."""
    success = {"description": summary} if schema is None else response(summary, schema)
    return {"operationId": name, "summary": summary, "tags": [tag], "responses": {"200": success}}


def with_load_balancer_errors(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a path's operations with the load balancer's errors, which are problem documents in every protocol."""
    for operation in item.values():
        for status, description in _LOAD_BALANCER_ERRORS.items():
            if status == "413" and "requestBody" not in operation:
                continue
            documented = operation["responses"].setdefault(status, {"description": description, "content": {}})
            documented["content"].setdefault(PROBLEM_JSON, {"schema": ref("Problem")})
    return dict(item)
