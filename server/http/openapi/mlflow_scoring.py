"""MLflow's scoring protocol in the OpenAPI document.

The schemas describe the values that a client should send. The description says what else is accepted.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

from server.http.openapi import rows
from server.http.openapi.parts import (
    any_of,
    array_schema,
    get_operation,
    object_schema,
    open_object_schema,
    ref,
    response,
    value_schema,
)
from server.inference.model import Model
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
                "text/csv": {"schema": _TEXT, "example": _csv(model.example)},
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
    columns = [column.without_range() for column in model.schema.columns]
    size = {"minItems": 1, "maxItems": max_rows}
    records = array_schema(ref("InvocationRecord"), **size)
    by_column = {column.name: array_schema(value_schema(column), **size) for column in columns}
    forms = {
        "InvocationDataframeSplit": {"dataframe_split": ref("DataframeSplit")},
        "InvocationDataframeRecords": {"dataframe_records": records},
        "InvocationInstances": {"instances": records},
        "InvocationInputs": {"inputs": any_of(ref("InputsByColumn"), records)},
    }
    optional = {"params": ref("InvocationParams")}
    example = {"dataframe_split": {"columns": list(model.example), "data": [list(model.example.values())]}}
    return {
        "InvocationRequest": {"oneOf": [ref(name) for name in forms], "examples": [example]},
        **{name: object_schema(form, optional=optional) for name, form in forms.items()},
        "InvocationParams": open_object_schema(),
        "DataframeSplit": object_schema(
            {"data": array_schema(array_schema(), **size)},
            optional={"columns": array_schema(_TEXT), "index": array_schema()},
        ),
        "InputsByColumn": {**rows.by_name(columns), "properties": by_column},
        "InvocationRecord": rows.by_name(columns),
        "InvocationResponse": object_schema({"predictions": array_schema()}),
        "MlflowError": object_schema(dict.fromkeys(("error_code", "message", "sqlstate", "error_class"), _TEXT)),
    }


def _csv(example: Mapping[str, object]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([example.keys(), example.values()])
    return text.getvalue()
