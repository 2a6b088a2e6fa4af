"""API keys in the OpenAPI document of a replica that requires them."""

from __future__ import annotations

from typing import Any

from server.http.api_keys import PUBLIC_PATHS
from server.http.openapi.parts import problem_response, ref, response

_DESCRIPTION = "The API key is missing or invalid"
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in another header"},
}
_HEADERS = {"WWW-Authenticate": {"description": "Bearer (RFC 6750)", "required": True, "schema": {"type": "string"}}}


def with_api_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with security schemes and a 401 for every operation that needs an API key."""
    for path, item in document["paths"].items():
        for operation in item.values() if path not in PUBLIC_PATHS else ():
            operation["security"] = [{name: []} for name in _SCHEMES]
            operation["responses"]["401"] = {**_unauthorized_response(path), "headers": _HEADERS}
    document["components"]["securitySchemes"] = _SCHEMES
    return document


def _unauthorized_response(path: str) -> dict[str, Any]:
    if path == "/invocations":
        return response(_DESCRIPTION, ref("MlflowError"))
    return response(_DESCRIPTION, ref("V2Error")) if path.startswith("/v2") else problem_response(_DESCRIPTION)
