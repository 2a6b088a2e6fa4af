"""The routes about the service itself in the OpenAPI document, and the schema of problem documents."""

from __future__ import annotations

from typing import Any

from server.http.openapi.parts import (
    array_schema,
    get_operation,
    object_schema,
    open_object_schema,
    problem_response,
    ref,
)
from server.inference.model import Model

TAG = "service"
_TEXT = {"type": "string"}


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
        "Health": object_schema({"status": {"const": "ok"}, "model": open_object_schema()}, closed=False),
        "Ready": object_schema({"status": {"const": "ready"}}),
        "Index": object_schema({"name": _TEXT, "links": open_object_schema(_TEXT)}, closed=False),
        "Problem": _problem(),
        "ProblemError": object_schema({"detail": _TEXT, "pointer": _TEXT}),
    }


def _problem() -> dict[str, Any]:
    required = {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}
    return object_schema(required, optional={"errors": array_schema(ref("ProblemError"))})
