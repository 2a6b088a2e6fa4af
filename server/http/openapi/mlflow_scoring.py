"""MLflow's scoring protocol in the OpenAPI document.

The schemas describe the values that a client should send. The description says what else is accepted.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

from server.http.openapi import parameters, rows
from server.http.openapi.parts import (
    any_of,
    array_schema,
    get_operation,
    object_schema,
    ref,
    response,
    value_schema,
)
from server.inference.columns import Column
from server.inference.model import Model
from server.inference.schema import Form, InputSchema
from server.protocols.json_codec import JSON

TAG = "mlflow"

_ERRORS: Mapping[str, str] = {
    "400": "The body cannot be read, or is not a table with the model's columns",
    "413": "The body is too large",
    "500": "An unexpected error, logged by the server",
    "503": "The queue is full or the worker is stopping; try again after Retry-After seconds",
}
_LENIENT = (
    "Exactly one of four forms of a table. Unknown columns are ignored, values are converted to their column's type "
    "where MLflow does so, and ranges are not checked."
)
_TEXT = {"type": "string"}


def paths(model: Model) -> dict[str, Any]:
    """Return the paths for predictions, for the ping and for the version."""
    operation = {
        "operationId": "invocations",
        "summary": "Predict rows, as MLflow's scoring server does",
        "description": _LENIENT,
        "tags": [TAG],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": ref("InvocationRequest")},
                "text/csv": {"schema": _TEXT, **_csv_example(model.example)},
            },
        },
        "responses": {
            "200": response("A prediction for each row, in their order", ref("InvocationResponse")),
            "415": response("The Content-Type is not supported", _TEXT, "text/plain"),
            **{status: response(description, ref("MlflowError")) for status, description in _ERRORS.items()},
        },
    }
    # MLflow's server declares these two responses as JSON although they are not, so no schema would match them.
    return {
        "/invocations": {"post": operation},
        "/ping": {"get": get_operation("ping", "An empty line: the model is loaded", TAG, None)},
        "/version": {"get": get_operation("version", "The version of MLflow as plain text", TAG, None)},
    }


def schemas(model: Model, max_rows: int) -> dict[str, Any]:
    """Return the schemas of the four request forms, the response and the error."""
    schema, nested = model.schema.lenient(), rows.nested_values(model.schema)

    def schema_of(column: Column) -> Mapping[str, Any]:
        return nested.get(column.name) or value_schema(column)

    size = {"minItems": 1, "maxItems": max_rows}
    records = array_schema(ref("InvocationRecord"), **size)
    listed = _listed_rows(schema, schema_of(schema.columns[0]), size)
    forms = {
        "InvocationDataframeSplit": {"dataframe_split": ref("DataframeSplit")},
        "InvocationDataframeRecords": {"dataframe_records": records},
        "InvocationInstances": {"instances": any_of(records, *listed)},
        "InvocationInputs": {"inputs": any_of(ref("InputsByColumn"), records, *listed)},
    }
    optional = {"params": any_of(ref("InvocationParams"), {"type": "null"})}
    return {
        "InvocationRequest": {"oneOf": [ref(name) for name in forms], "examples": [_example(model)]},
        **{name: object_schema(form, optional=optional) for name, form in forms.items()},
        "InvocationParams": parameters.open_schema(model.parameters),
        "DataframeSplit": object_schema(
            {"data": array_schema(array_schema(), **size)},
            optional={"columns": array_schema(_TEXT), "index": array_schema()},
        ),
        "InputsByColumn": rows.by_name(schema, lambda column: array_schema(schema_of(column), **size)),
        "InvocationRecord": rows.by_name(schema, schema_of),
        "InvocationResponse": object_schema({"predictions": array_schema()}),
        "MlflowError": object_schema(dict.fromkeys(("error_code", "message", "sqlstate", "error_class"), _TEXT)),
    }


def _listed_rows(schema: InputSchema, value: Mapping[str, Any], size: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the schema of rows without names, if they are taken: lists of values, or values of the only column."""
    if schema.takes_bare_values:
        return [array_schema(value, **size)]
    return [array_schema(array_schema(), **size)] if schema.takes_value_lists else []


def _example(model: Model) -> dict[str, Any]:
    """Return a body with the example as MLflow's client would send it: a table, or rows without names."""
    values = list(model.example.values())
    if model.schema.form is Form.RECORDS:
        return {"dataframe_records" if isinstance(values[0], dict) else "instances": values}
    if not model.schema.is_positional:
        return {"dataframe_split": {"columns": list(model.example), "data": [values]}}
    return {"inputs": values if model.schema.takes_bare_values else [values]}


def _csv_example(example: Mapping[str, object]) -> dict[str, str]:
    """Return the example as CSV, unless it has values that are lists or objects."""
    if any(isinstance(value, list | dict) for value in example.values()):
        return {}
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([example.keys(), example.values()])
    return {"example": text.getvalue()}
