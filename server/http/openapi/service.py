"""The routes about the service itself in the OpenAPI document, and the schema of problem documents."""

from __future__ import annotations

from typing import Any

from server.http.openapi.parts import get_operation, object_schema, problem_response, ref
from server.inference.model import Model

TAG = "service"


def paths(_model: Model) -> dict[str, Any]:
    """Return the paths for health, readiness and the index."""
    ready = get_operation("ready", "The worker accepts requests", TAG, ref("Ready"))
    ready["responses"]["503"] = problem_response("The worker is draining")
    return {
        "/health": {"get": get_operation("health", "The worker is alive, and what it serves", TAG, ref("Health"))},
        "/ready": {"get": ready},
        "/": {"get": get_operation("index", "The name of the model, and links", TAG, ref("Index"))},
    }


def schemas(_model: Model, _max_rows: int) -> dict[str, Any]:
    """Return the schemas of the responses and of problem documents."""
    return {
        "Health": object_schema({"status": {"const": "ok"}, "model": {"type": "object"}}, closed=False),
        "Ready": object_schema({"status": {"const": "ready"}}),
        "Index": object_schema({"name": {"type": "string"}, "links": {"type": "object"}}, closed=False),
        "Problem": _problem(),
    }


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    errors = {"type": "array", "items": object_schema({"detail": text, "pointer": text})}
    required = {"type": text, "title": text, "status": {"type": "integer"}, "detail": text}
    return object_schema(required, optional={"errors": errors})
