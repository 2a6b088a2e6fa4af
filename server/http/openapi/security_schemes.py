"""API keys in the OpenAPI document of a replica that asks for them."""

from __future__ import annotations

from typing import Any

from server.http.api_keys import PUBLIC_PATHS
from server.http.openapi.parts import answer, problem, ref

_WORDS = "There is no API key, or not a good one"
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, where that is easier"},
}
_HEADERS = {"WWW-Authenticate": {"description": "Bearer (RFC 6750)", "required": True, "schema": {"type": "string"}}}


def guarded(document: dict[str, Any]) -> dict[str, Any]:
    """The same document, with a key in a header for all operations but the open ones, and the answer without one."""
    for path, item in document["paths"].items():
        for operation in item.values() if path not in PUBLIC_PATHS else ():
            operation["security"] = [{name: []} for name in _SCHEMES]
            operation["responses"]["401"] = {**_refusal(path), "headers": _HEADERS}
    document["components"]["securitySchemes"] = _SCHEMES
    return document


def _refusal(path: str) -> dict[str, Any]:
    if path == "/invocations":
        return answer(_WORDS, ref("MlflowError"))
    return answer(_WORDS, ref("V2Error")) if path.startswith("/v2") else problem(_WORDS)
