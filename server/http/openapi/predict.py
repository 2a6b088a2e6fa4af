"""``/predict`` in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.http.openapi import parameters, rows
from server.http.openapi.parts import (
    any_of,
    array_schema,
    object_schema,
    open_object_schema,
    problem_response,
    ref,
    response,
)
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
_LABEL = {"description": "The label of a row, or a list with the label of each output"}
_CONFIDENCE = {
    "description": "The probability of the label, or of each output's label; null if the model has no probabilities",
    **any_of({"type": "number"}, array_schema({"type": ["number", "null"]}), {"type": "null"}),
}
_PROBABILITIES_PARAMETER = {
    "name": "probabilities",
    "in": "query",
    "description": "Whether the answer has the probabilities of all classes; by default it has not",
    "schema": {"type": "boolean"},
}
_PROBABILITIES = {
    "description": "The probability of each class, or a list with those of each output; null if the model has none",
    **any_of(ref("ClassProbabilities"), array_schema(ref("ClassProbabilities")), {"type": "null"}),
}


def paths(_model: Model) -> dict[str, Any]:
    """Return the path ``/predict`` with its operation."""
    success = "A prediction for one row, or predictions for `instances`, in their order"
    operation = {
        "operationId": "predict",
        "summary": "Predict one row or many",
        "tags": [TAG],
        "parameters": [_PROBABILITIES_PARAMETER],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("PredictRequest")}}},
        "responses": {
            "200": response(success, ref("PredictResponse")),
            **{status: problem_response(description) for status, description in _PROBLEMS.items()},
        },
    }
    return {"/predict": {"post": operation}}


def schemas(model: Model, max_rows: int) -> dict[str, Any]:
    """Return the schemas of the request forms and the two responses."""
    version = {"model_version": {"type": "string"}}
    forms = _request_forms(model, max_rows)
    params = {"PredictParams": parameters.closed_schema(model.parameters)} if model.parameters.declared else {}
    # A row that is an object by itself needs no name.
    whole_row = ["FeatureValue"] if model.schema.is_nested and model.schema.columns[0].type in ("object", "map") else []
    return {
        **rows.schemas(model),
        **forms,
        **params,
        "PredictRequest": {
            **any_of(*map(ref, ["Features", *whole_row, *forms])),
            "examples": [model.example_request],
        },
        "PredictResponse": any_of(ref("Prediction"), ref("InstancePredictions")),
        "Prediction": object_schema(
            {"prediction": _LABEL, "confidence": ref("Confidence"), **version},
            optional={"probabilities": ref("Probabilities")},
        ),
        "InstancePredictions": object_schema(
            {"predictions": array_schema(_LABEL), "confidences": array_schema(ref("Confidence")), **version},
            optional={"probabilities": array_schema(ref("Probabilities"))},
        ),
        "Confidence": _CONFIDENCE,
        "Probabilities": _PROBABILITIES,
        "ClassProbabilities": open_object_schema({"type": "number"}),
    }


def _request_forms(model: Model, max_rows: int) -> dict[str, Any]:
    """Return the schemas of the requests that wrap rows. A feature of the same name is not a wrapper."""
    wrapped = {
        "features": ("PredictFeatureList", rows.listed_row(model.schema)),
        "instances": ("PredictInstances", array_schema(ref("Row"), minItems=1, maxItems=max_rows)),
    }
    params = {"params": any_of(ref("PredictParams"), {"type": "null"})} if model.parameters.declared else {}
    return {
        name: object_schema({key: schema}, optional=params)
        for key, (name, schema) in wrapped.items()
        if key not in model.schema.names
    }
