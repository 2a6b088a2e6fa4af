"""What the documents of all protocols are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.columns import Column
from server.protocol import JSON, PROBLEM_JSON

_TYPES: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
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
    if column.limited:
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


def get(name: str, summary: str, tag: str, schema: Mapping[str, Any], media_type: str = JSON) -> dict[str, Any]:
    """An operation that only tells something."""
    responses = {"200": answer(summary, schema, media_type)}
    return {"operationId": name, "summary": summary, "tags": [tag], "responses": responses}
