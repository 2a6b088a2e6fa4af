"""MLflow's scoring protocol in the OpenAPI document.

The schemas describe the values that a client should send. The description says what else is accepted.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

from server.http.openapi.parts import column_schema, get_operation, object_schema, ref, response
from server.inference.columns import Column
from server.inference.model import Model
from server.protocols.json_codec import JSON

TAG = "MLflow scoring"

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
                JSON: {"schema": ref("Invocation")},
                "text/csv": {"schema": _TEXT, "example": _csv(model.example)},
            },
        },
        "responses": {
            "200": response("A prediction for each row, in their order", ref("Predictions")),
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
    rows: dict[str, Any] = {"type": "array", "minItems": 1, "maxItems": max_rows}
    records = {**rows, "items": ref("Record")}
    by_column = _columns(columns, {column.name: {**rows, "items": column_schema(column)} for column in columns})
    split = object_schema(
        {"data": {**rows, "items": {"type": "array"}}},
        optional={"columns": {"type": "array", "items": _TEXT}, "index": {"type": "array"}},
    )
    forms = {"dataframe_split": split, "dataframe_records": records, "instances": records}
    forms["inputs"] = {"anyOf": [by_column, records]}
    params = {"params": {"type": "object"}}
    example = {"dataframe_split": {"columns": list(model.example), "data": [list(model.example.values())]}}
    return {
        "Record": _columns(columns, {column.name: column_schema(column) for column in columns}),
        "Invocation": {
            "oneOf": [object_schema({form: schema}, optional=params) for form, schema in forms.items()],
            "examples": [example],
        },
        "Predictions": object_schema({"predictions": {"type": "array"}}),
        "MlflowError": object_schema(dict.fromkeys(("error_code", "message", "sqlstate", "error_class"), _TEXT)),
    }


def _columns(columns: list[Column], properties: Mapping[str, Any]) -> dict[str, Any]:
    required = [column.name for column in columns if column.required]
    return {"type": "object", "properties": dict(properties), "required": required}


def _csv(example: Mapping[str, object]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([example.keys(), example.values()])
    return text.getvalue()
