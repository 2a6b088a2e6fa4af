"""What tells of the service itself, in the OpenAPI document; and the problem document, which all of it answers."""

from __future__ import annotations

from typing import Any

from server.http.openapi.parts import get, obj, problem, ref
from server.inference.model import Model

TAG = "service"


def paths(_model: Model) -> dict[str, Any]:
    """Health, readiness and the index."""
    ready = get("ready", "The worker takes requests", TAG, ref("Ready"))
    ready["responses"]["503"] = problem("The worker is draining")
    return {
        "/health": {"get": get("health", "The worker is alive, and what it serves", TAG, ref("Health"))},
        "/ready": {"get": ready},
        "/": {"get": get("index", "What this is, and its links", TAG, ref("Index"))},
    }


def schemas(_model: Model, _max_rows: int) -> dict[str, Any]:
    """Their answers."""
    return {
        "Health": obj({"status": {"const": "ok"}, "model": {"type": "object"}}, closed=False),
        "Ready": obj({"status": {"const": "ready"}}),
        "Index": obj({"name": {"type": "string"}, "links": {"type": "object"}}, closed=False),
        "Problem": _problem(),
    }


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    errors = {"type": "array", "items": obj({"detail": text, "pointer": text})}
    required = {"type": text, "title": text, "status": {"type": "integer"}, "detail": text}
    return obj(required, optional={"errors": errors})
