"""The OpenAPI document of one model: the paths and schemas of every protocol, built from the model's columns."""

from __future__ import annotations

from typing import Any

from server.http.openapi import mlflow_scoring, open_inference, predict, security_schemes, service
from server.http.openapi.parts import with_load_balancer_errors
from server.inference.model import Model

_TAGS = {
    predict.TAG: "Forkcast's own protocol: strict, with confidences",
    mlflow_scoring.TAG: "The protocol of `mlflow models serve`, for its clients",
    open_inference.TAG: "Version 2 over REST, for clients of KServe, Triton and MLServer",
    service.TAG: "Health, readiness and the index",
}


def openapi_document(model: Model, max_rows: int, *, guarded: bool = False) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a model that takes at most ``max_rows`` rows per request.

    ``guarded`` says whether requests need an API key.
    """
    document = _document(model, max_rows)
    return security_schemes.with_api_keys(document) if guarded else document


def _document(model: Model, max_rows: int) -> dict[str, Any]:
    parts = (predict, mlflow_scoring, open_inference, service)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model.name} on Forkcast",
            "version": model.version,
            "description": f"Model `{model.uri}`, trained on: {model.trained_on or 'not recorded'}.",
        },
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": {path: with_load_balancer_errors(item) for part in parts for path, item in part.paths(model).items()},
        "components": {
            "schemas": {name: schema for part in parts for name, schema in part.schemas(model, max_rows).items()}
        },
    }
