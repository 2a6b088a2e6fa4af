"""Errors outside the prediction endpoints, rendered by the protocol that owns the request's path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from server.errors import InternalError, RequestError, RoutingError
from server.protocols.endpoint import WireProtocol


class ErrorHandlers:
    """Starlette's exception handlers. The first of ``protocols`` that owns a path renders the errors at that path."""

    def __init__(self, protocols: Sequence[WireProtocol]) -> None:
        self._protocols = protocols

    @property
    def by_exception(self) -> dict[Any, Any]:
        """Return the handlers by exception class, for Starlette."""
        return {
            RequestError: self.on_request_error,
            HTTPException: self.on_http_exception,
            Exception: self.on_unexpected_error,
        }

    async def on_request_error(self, request: Request, error: RequestError) -> Response:
        """Answer an error that Forkcast raised, with the status of its class."""
        return self.response(request.scope["path"], error)

    async def on_http_exception(self, request: Request, error: HTTPException) -> Response:
        """Answer an error that Starlette raised: an unknown path, or a method that the path does not allow."""
        path = request.scope["path"]
        shown = path[:200]
        details = {
            404: f"there is no path {shown}; GET / lists the available paths",
            405: f"{shown} does not allow {request.method}",
        }
        detail = details.get(error.status_code, error.detail)
        return self.response(path, RoutingError(detail, status=error.status_code, headers=error.headers))

    async def on_unexpected_error(self, request: Request, _error: Exception) -> Response:
        """Answer any other error with 500. Starlette then raises it again, and the middleware logs its traceback."""
        return self.response(request.scope["path"], InternalError())

    def response(self, path: str, error: RequestError) -> Response:
        """Return the response to a request at ``path`` that failed with ``error``."""
        protocol = next(protocol for protocol in self._protocols if protocol.owns(path))
        status, media_type, body = protocol.render_error(error)
        return Response(body, status, error.headers, media_type.decode())
