"""The schemas of the inference parameters that a model declares, for each protocol."""

from __future__ import annotations

from typing import Any

from server.http.openapi.parts import array_schema, object_schema, open_object_schema, value_schema
from server.inference.parameters import Parameter, Parameters


def closed_schema(parameters: Parameters) -> dict[str, Any]:
    """Return the schema of parameters that refuses those that the model does not declare."""
    return object_schema({}, optional=_properties(parameters))


def open_schema(parameters: Parameters) -> dict[str, Any]:
    """Return the schema of parameters that allows others, which are ignored."""
    return {**open_object_schema(), "properties": _properties(parameters)}


def _properties(parameters: Parameters) -> dict[str, Any]:
    return {parameter.name: _schema(parameter) for parameter in parameters.declared}


def _schema(parameter: Parameter) -> dict[str, Any]:
    value = value_schema(parameter.column)
    if "type" in value:
        value["type"] = [value["type"], "null"]  # passed on as None
    schema = array_schema(value) if parameter.is_list else value
    if parameter.default is None:
        return schema
    # Without a time zone, which `format` requires, a time cannot be a default.
    is_time = parameter.column.type == "datetime"
    return {
        **schema,
        **({"description": f"By default {parameter.default}"} if is_time else {"default": parameter.default}),
    }
