"""MLflow's scoring protocol in the OpenAPI document.

Its leniency is told in words: the schemas say what a value should be, not all that it may be.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

from server.http.openapi.parts import answer, get, obj, ref, value
from server.inference.columns import Column
from server.inference.model import Model
from server.protocols.json_codec import JSON

TAG = "MLflow scoring"

_ERRORS: Mapping[str, str] = {
    "400": "The body cannot be read, or is no table of the model's columns",
    "413": "The body is too large",
    "500": "Something unforeseen, logged by the server",
    "503": "The queue is full or the worker is stopping; try again after Retry-After seconds",
}
_LENIENT = (
    "Exactly one of four forms of a table. Columns that the model has not are passed over, values are made ones of "
    "their column's type where MLflow does so, and ranges are not checked."
)
_TEXT = {"type": "string"}


def paths(model: Model) -> dict[str, Any]:
    """Predictions, and the two questions that MLflow's clients ask."""
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
            "200": answer("A prediction for each row, in their order", ref("Predictions")),
            "415": answer("The body is declared as something that is not read here", _TEXT, "text/plain"),
            **{status: answer(words, ref("MlflowError")) for status, words in _ERRORS.items()},
        },
    }
    # MLflow's server declares these two answers as JSON, and they are none: no schema would be true of them.
    return {
        "/invocations": {"post": operation},
        "/ping": {"get": get("ping", "The process is there, and has its model: an empty line", TAG, None)},
        "/version": {"get": get("version", "The version of MLflow, and nothing else", TAG, None)},
    }


def schemas(model: Model, max_rows: int) -> dict[str, Any]:
    """A request in its four forms, the answer and the error."""
    columns = [column.unlimited() for column in model.schema.columns]
    rows: dict[str, Any] = {"type": "array", "minItems": 1, "maxItems": max_rows}
    records = {**rows, "items": ref("Record")}
    by_column = _columns(columns, {column.name: {**rows, "items": value(column)} for column in columns})
    split = obj(
        {"data": {**rows, "items": {"type": "array"}}},
        optional={"columns": {"type": "array", "items": _TEXT}, "index": {"type": "array"}},
    )
    forms = {"dataframe_split": split, "dataframe_records": records, "instances": records}
    forms["inputs"] = {"anyOf": [by_column, records]}
    example = {"dataframe_split": {"columns": list(model.example), "data": [list(model.example.values())]}}
    return {
        "Record": _columns(columns, {column.name: value(column) for column in columns}),
        "Invocation": {
            "oneOf": [obj({form: schema}, optional={"params": {"type": "object"}}) for form, schema in forms.items()],
            "examples": [example],
        },
        "Predictions": obj({"predictions": {"type": "array"}}),
        "MlflowError": obj(dict.fromkeys(("error_code", "message", "sqlstate", "error_class"), _TEXT)),
    }


def _columns(columns: list[Column], properties: Mapping[str, Any]) -> dict[str, Any]:
    required = [column.name for column in columns if column.required]
    return {"type": "object", "properties": dict(properties), "required": required}


def _csv(example: Mapping[str, object]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([example.keys(), example.values()])
    return text.getvalue()
