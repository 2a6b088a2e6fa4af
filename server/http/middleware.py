"""The outermost layer of the application: identity headers on every answer, counts, and the check of API keys."""

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

# Paths that are counted by themselves, beside those of predictions; all others are counted together.
_COUNTED = {path: path for path in ("/health", "/ready")}


@dataclass(frozen=True, slots=True)
class Reload:
    """The reload of the master that made an application; number 0 is the start.

    ``refused`` is the reason why the model that was asked for is not served since, or None where it is.
    """

    number: int = 0
    refused: str | None = None


def identity_headers(replica: str, version: str) -> tuple[Header, ...]:
    """Return the headers that name the replica, the worker (its process id) and the model version."""
    return (b"x-served-by", f"{replica}/{os.getpid()}".encode()), (b"x-model-version", version.encode())


class ReplicaApp:
    """The ASGI application of a replica: predictions go straight to their endpoint, everything else through Starlette.

    Gunicorn's hooks see it, and through it the model, the metrics and the API keys.
    """

    keys: KeysFile | None = None

    def __init__(  # noqa: PLR0913  (each is another thing to know)
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
        self._counted = _COUNTED | {path: endpoint.route for path, endpoint in endpoints.items()}
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch by method and path."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif scope["type"] == "http":
            await self._identified(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _identified(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the identity headers to the answer of ``app``, and count it.

        An error that was answered is not raised again: the server would close the connection, which is still good.
        """
        answered = False

        async def send_identified(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                self.metrics.request_answered(self._counted.get(scope["path"], OTHER_ROUTE), message["status"])
                message["headers"] = [*message["headers"], *identity_headers(self._replica, self.model.version)]
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await app(scope, receive, send_identified)
        except Exception:
            if not answered:
                raise
            logger.exception("unforeseen, answered with 500: %s %s", scope["method"], scope["path"])


class GuardedReplicaApp(ReplicaApp):
    """A replica's application that asks for an API key before it reads a body or looks for a route."""

    def __init__(self, keys: KeysFile, errors: ErrorHandlers, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.keys: KeysFile = keys
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let requests through that need no key or have a good one."""
        if scope["type"] == "http" and (error := check(self.keys, scope)) is not None:
            await self._identified(self._errors.response(scope["path"], error), scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
