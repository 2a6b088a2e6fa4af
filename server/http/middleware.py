"""The outermost layer of the application: identity headers on every response, metrics, and the check of API keys."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.api_keys import KeysFile, check
from server.http.error_handlers import ErrorHandlers
from server.inference.model import Model
from server.metrics.counts import OTHER_ROUTE, Metrics
from server.protocols.endpoint import Endpoint
from server.protocols.request_body import Header

logger = logging.getLogger(__name__)

# Paths with a metrics route of their own, beside the prediction endpoints. All other paths share one.
_METRICS_ROUTES = {path: path for path in ("/health", "/ready")}


@dataclass(frozen=True, slots=True)
class Reload:
    """The reload of the master that created an application; number 0 is the start.

    ``refused`` is the reason why this reload kept the previous model, or None if it did not.
    """

    number: int = 0
    refused: str | None = None


def identity_headers(replica: str, version: str) -> tuple[Header, ...]:
    """Return the headers that name the replica, the worker (its process id) and the model version."""
    return (b"x-served-by", f"{replica}/{os.getpid()}".encode()), (b"x-model-version", version.encode())


class ReplicaApp:
    """The ASGI application of a replica: predictions go straight to their endpoint, everything else through Starlette.

    Gunicorn's hooks reach the model, the metrics and the API keys through its attributes.
    """

    keys: KeysFile | None = None

    def __init__(  # noqa: PLR0913  (independent parts, each passed by create_app)
        self,
        app: ASGIApp,
        endpoints: Mapping[str, Endpoint],
        replica: str,
        model: Model,
        reload: Reload,
        *,
        metrics: Metrics,
    ) -> None:
        self.model = model
        self.reload = reload
        self.metrics = metrics
        self._app = app
        self._endpoints = endpoints
        self._metrics_routes = _METRICS_ROUTES | {path: endpoint.route for path, endpoint in endpoints.items()}
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a prediction request to its endpoint, and everything else to Starlette."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif scope["type"] == "http":
            await self._call_with_identity(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _call_with_identity(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Call ``app``, add the identity headers to its response, and count it.

        An error after a complete response is logged and not raised again, because the server would close the
        connection, which can still be used.
        """
        is_complete = False

        async def send_with_identity(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                route = self._metrics_routes.get(scope["path"], OTHER_ROUTE)
                self.metrics.request_answered(route, message["status"])
                message["headers"] = [*message["headers"], *identity_headers(self._replica, self.model.version)]
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await app(scope, receive, send_with_identity)
        except Exception:
            if not is_complete:
                raise
            logger.exception("unexpected error, answered with 500: %s %s", scope["method"], scope["path"])


class GuardedReplicaApp(ReplicaApp):
    """A replica's application that checks the API key before it reads a body or looks for a route."""

    def __init__(self, keys: KeysFile, errors: ErrorHandlers, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys: KeysFile = keys
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with a valid key or to a public path, and answer any other with 401."""
        if scope["type"] == "http" and (error := check(self.keys, scope)) is not None:
            await self._call_with_identity(self._errors.response(scope["path"], error), scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
