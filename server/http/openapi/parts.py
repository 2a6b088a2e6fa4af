"""What the documents of all protocols are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.inference.columns import Column
from server.protocols.json_codec import JSON, PROBLEM_JSON

_TYPES: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
}

# What Nginx answers itself.
_BALANCER: Mapping[str, str] = {
    "400": "The request is not well-formed HTTP",
    "413": "The body is too large",
    "503": "No replica could take the request; try again after Retry-After seconds",
    "504": "No replica answered in time",
}


def ref(name: str) -> dict[str, str]:
    """One of the document's own schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def obj(
    properties: Mapping[str, Any], *, optional: Mapping[str, Any] | None = None, closed: bool = True
) -> dict[str, Any]:
    """The schema of an object; ``closed`` is whether it has nothing else."""
    optional = optional or {}
    document = {"type": "object", "properties": {**properties, **optional}, "required": list(properties)}
    return {**document, "additionalProperties": False} if closed else document


def value(column: Column) -> dict[str, Any]:
    """The schema of a column's values."""
    schema: dict[str, Any] = {**_TYPES[column.type]}
    # A format binds nobody: int64 is taken up to 2**53, and a float32 must not become infinite.
    if column.limited or column.is_whole or column.type == "float":
        schema |= {"minimum": column.low, "maximum": column.high}
    if not column.required:
        schema["type"] = [schema["type"], "null"]
    return schema


def answer(description: str, schema: Mapping[str, Any], media_type: str = JSON) -> dict[str, Any]:
    """One response."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def problem(description: str) -> dict[str, Any]:
    """One response that is a problem document."""
    return answer(description, ref("Problem"), PROBLEM_JSON)


def get(name: str, summary: str, tag: str, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """An operation that only tells something; without a schema, there is nothing to be read in its answer."""
    found = {"description": summary} if schema is None else answer(summary, schema)
    return {"operationId": name, "summary": summary, "tags": [tag], "responses": {"200": found}}


def balanced(item: Mapping[str, Any]) -> dict[str, Any]:
    """A path's operations, with what the load balancer answers in their place: problem documents, in every protocol."""
    for operation in item.values():
        asked = _BALANCER if "requestBody" in operation else {s: w for s, w in _BALANCER.items() if s != "413"}
        for status, words in asked.items():
            found = operation["responses"].setdefault(status, {"description": words, "content": {}})
            found["content"].setdefault(PROBLEM_JSON, {"schema": ref("Problem")})
    return dict(item)
