"""The OpenAPI document of one model, made from its schema: every protocol that it is served by, with an example."""

from __future__ import annotations

from typing import Any

from server.http.openapi import mlflow_scoring, open_inference, predict, security_schemes, service
from server.http.openapi.parts import balanced
from server.inference.model import Model

_TAGS = {
    predict.TAG: "Forkcast's own: strict, with confidences",
    mlflow_scoring.TAG: "What `mlflow models serve` answers, for clients that are made for it",
    open_inference.TAG: "Version 2, by REST: for the clients of KServe, Triton and MLServer",
    service.TAG: "What runs here",
}


def openapi_document(model: Model, max_rows: int, *, guarded: bool = False) -> dict[str, Any]:
    """An OpenAPI 3.1 document; ``max_rows`` is the most rows that one request may have.

    ``guarded`` is whether requests need an API key.
    """
    document = _document(model, max_rows)
    return security_schemes.guarded(document) if guarded else document


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
        "paths": {path: balanced(item) for part in parts for path, item in part.paths(model).items()},
        "components": {
            "schemas": {name: schema for part in parts for name, schema in part.schemas(model, max_rows).items()}
        },
    }
