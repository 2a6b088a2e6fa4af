"""The HTTP contract: routes, and one place where errors become answers."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import Draining, RequestError, Unauthorized, Unforeseen
from server.http.api_keys import KeysFile, check
from server.http.openapi import openapi_document
from server.http.pages import asset_routes, redoc_page, swagger_page
from server.inference.batcher import Batcher
from server.inference.model import Model
from server.inference.rows import Prediction, Row
from server.metrics.counts import INVOCATIONS, OTHER, Metrics
from server.metrics.scrape import Scrape
from server.protocols import json_codec, mlflow_scoring, open_inference
from server.protocols.endpoint import Endpoint
from server.protocols.predict import Predict
from server.settings import Settings
from server.system import cgroup

logger = logging.getLogger(__name__)


Header = tuple[bytes, bytes]


@dataclass(slots=True)
class Serving:
    """What one worker makes for itself after the fork. ``marks`` are on every answer; its class sets ``draining``.

    ``example`` is the prediction of the model's example, or None where it could not predict it.
    """

    batcher: Batcher
    marks: tuple[Header, ...]
    example: Prediction | None = None
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False

    def publish(self) -> None:
        """Tell all workers of the replica how this one is doing."""
        self.metrics.publish(self.batcher.pending)


@dataclass(frozen=True, slots=True)
class Reload:
    """Which reload of its master made an application: 0 is the start.

    ``refused`` says why that one did not bring the model that was asked for, if so.
    """

    number: int = 0
    refused: str | None = None


def create_app(
    settings: Settings,
    model: Model,
    reload: Reload | None = None,
    metrics: Metrics | None = None,
    keys: KeysFile | None = None,
) -> Edge:
    """The ASGI application of one worker. The lifespan makes its queue and warms the model up.

    ``metrics`` are those of the whole replica, where there is more than this process; ``keys`` are what requests need,
    where they need one.
    """
    reload, metrics = reload or Reload(), metrics or Metrics()
    endpoints = Endpoints(settings, model, reload, metrics, guarded=keys is not None)
    predict, invocations, infer = (
        Endpoint(wire(model, settings.max_pending), settings.max_body_bytes)
        for wire in (Predict, mlflow_scoring.Scoring, open_inference.Infer)
    )
    inference = open_inference.V2(model, infer)
    app = Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/invocations", invocations, methods=["POST"]),
            Route("/ping", mlflow_scoring.ping),
            Route("/version", mlflow_scoring.mlflow_version),
            *inference.routes(),
            Route("/health", endpoints.health),
            Route("/ready", endpoints.ready),
            Route("/metrics", endpoints.metrics),
            Route("/", endpoints.index),
            Route("/openapi.json", endpoints.openapi),
            Route("/docs", endpoints.docs),
            Route("/redoc", endpoints.redoc),
            *asset_routes(),
        ],
        lifespan=endpoints.lifespan,
        exception_handlers={RequestError: on_request_error, HTTPException: on_http_exception, Exception: on_unforeseen},
    )
    app.router.redirect_slashes = False
    direct = {"/predict": predict, "/invocations": invocations, **dict.fromkeys(inference.paths, infer)}
    edge = Edge if keys is None else partial(GuardedEdge, keys)
    return edge(app, direct, settings.replica, model, reload, metrics=metrics)


class Endpoints:
    """One method a route, over the model and the limits of this replica."""

    def __init__(
        self, settings: Settings, model: Model, reload: Reload, metrics: Metrics, *, guarded: bool = False
    ) -> None:
        self._settings = settings
        self._model = model
        self._reload = reload
        self._metrics = metrics
        self._scrape = Scrape(metrics, model)
        self._openapi = json_codec.encode(openapi_document(model, settings.max_pending, guarded=guarded))

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[dict[str, object]]:
        """Warm up before the first request, and hand every request the worker's own state."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")
        batcher = Batcher(
            self._predict,
            executor,
            max_batch_rows=self._settings.max_batch_rows,
            max_pending=self._settings.max_pending,
            observer=self._metrics,
        )
        example = await self._warm_up(batcher)
        serving = Serving(batcher, marks(self._settings.replica, self._model.version), example, self._metrics)
        serving.publish()
        yield {"serving": serving}
        batcher.close()
        executor.shutdown(wait=False)

    def _predict(self, values: Sequence[Row]) -> Prediction:
        return self._model.engine.predict(self._model.schema.rows(values))

    async def _warm_up(self, batcher: Batcher) -> Prediction | None:
        try:
            return await batcher.warm_up(self._model.example_row)
        except Exception:
            # It still may answer real rows; those that it cannot, it answers with a 500 that names the same reason.
            logger.exception("the model could not predict its example; it is served all the same")
            return None

    async def health(self, request: Request) -> Response:
        """The worker is alive, and this is what it serves."""
        model = self._model
        document: dict[str, object] = {
            "status": "ok",
            "model": {
                "name": model.name,
                "version": model.version,
                "uri": model.uri,
                "engine": model.engine.name,
                "trained_on": model.trained_on,
                "digest": model.digest,
            },
            "source": model.source,
            "replica": self._settings.replica,
            "worker": os.getpid(),
            "workers": self._settings.workers,
            "reloads": self._reload.number,
            "memory": {"used": cgroup.memory_used(), "limit": cgroup.memory_limit()},
            "pending_rows": request.state.serving.batcher.pending,
        }
        if model.stale is not None:
            document["stale"] = model.stale
        if self._reload.refused is not None:
            document["refused"] = self._reload.refused
        return Response(json_codec.encode(document), media_type=json_codec.JSON)

    async def ready(self, request: Request) -> Response:
        """Whether the worker takes requests."""
        if request.state.serving.draining:
            raise Draining("this worker is draining")
        return Response(json_codec.encode({"status": "ready"}), media_type=json_codec.JSON)

    def metrics(self, request: Request) -> Response:
        """What Prometheus asks for. Starlette runs it in a thread: the kernel takes milliseconds to add up memory."""
        request.state.serving.publish()
        text, kind = self._scrape.answer(request.headers.get("accept", ""))
        return Response(text, media_type=kind)

    async def index(self, _request: Request) -> Response:
        """What this is, and its links."""
        links = {"predict": "/predict", "invocations": "/invocations", "v2": open_inference.PREFIX, "health": "/health"}
        links |= {"ready": "/ready", "docs": "/docs", "redoc": "/redoc", "openapi": "/openapi.json"}
        document: dict[str, object] = {
            "name": "Forkcast",
            "serves": f"{self._model.name} version {self._model.version}",
            "trained_on": self._model.trained_on,
            "links": links,
            "example": {"POST /predict": self._model.example},
        }
        if self._model.example_made_up:
            document["note"] = "the example is made up from the columns: the model was logged without input_example"
        return Response(json_codec.encode(document), media_type=json_codec.JSON)

    async def openapi(self, _request: Request) -> Response:
        """The contract, for programs."""
        return Response(self._openapi, media_type=json_codec.JSON)

    async def docs(self, _request: Request) -> Response:
        """The contract in Swagger UI."""
        return HTMLResponse(swagger_page(self._model.name))

    async def redoc(self, _request: Request) -> Response:
        """The contract in Redoc."""
        return HTMLResponse(redoc_page(self._model.name))


async def on_request_error(request: Request, error: Exception) -> Response:
    """What Forkcast raised on purpose: the class says the status."""
    if not isinstance(error, RequestError):
        raise error
    return refusal(request.scope["path"], error.status, error.detail, error.headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette raised: no such path, or a method that the path has not."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.scope["path"]
    shown = path[:200]
    details = {404: f"there is no {shown}; see / for what there is", 405: f"{shown} does not take {request.method}"}
    return refusal(path, error.status_code, details.get(error.status_code, error.detail), error.headers)


async def on_unforeseen(request: Request, _error: Exception) -> Response:
    """Anything else: Starlette raises it again after this answer, and the edge logs it with its traceback."""
    return refusal(request.scope["path"], Unforeseen.status, Unforeseen().detail)


def unauthorized(path: str, error: Unauthorized) -> Response:
    """The same for a request without a good API key, which has not come as far as the protocol's own endpoint."""
    if path == INVOCATIONS:
        return Response(mlflow_scoring.encode_error(error), error.status, error.headers, json_codec.JSON)
    return refusal(path, error.status, error.detail, error.headers)


def refusal(path: str, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as the protocol that the path belongs to has it: a problem document, but under ``/v2``."""
    if path.startswith(open_inference.PREFIX):
        return Response(open_inference.encode_error(detail), status, headers, json_codec.JSON)
    return Response(json_codec.encode_problem(status, detail), status, headers, json_codec.PROBLEM_JSON)


def marks(replica: str, version: str) -> tuple[Header, ...]:
    """Who gives an answer: the replica, with this process, its worker; and the version of the model that it serves."""
    return (b"x-served-by", f"{replica}/{os.getpid()}".encode()), (b"x-model-version", version.encode())


# Under what a request is counted, beside the predictions' paths; all others are one.
_COUNTED = {path: path for path in ("/health", "/ready")}


class Edge:
    """The outermost layer: predictions straight to their endpoint, everything else marked, and logged where unforeseen.

    Gunicorn's hooks see it, and through it the model, the metrics and the API keys.
    """

    keys: KeysFile | None = None

    def __init__(  # noqa: PLR0913  (each is another thing to know)
        self,
        app: ASGIApp,
        direct: Mapping[str, Endpoint],
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
        self._direct = direct
        self._counted = _COUNTED | {path: endpoint.route for path, endpoint in direct.items()}
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Choose by method and path."""
        endpoint = self._direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif scope["type"] == "http":
            await self._marked(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _marked(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """The marks on every answer, which is counted.

        An error that was answered goes no further: the server would close the connection, which is still good.
        """
        answered = False

        async def send_marked(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                self.metrics.counted(self._counted.get(scope["path"], OTHER), message["status"])
                message["headers"] = [*message["headers"], *marks(self._replica, self.model.version)]
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await app(scope, receive, send_marked)
        except Exception:
            if not answered:
                raise
            logger.exception("unforeseen, answered with 500: %s %s", scope["method"], scope["path"])


class GuardedEdge(Edge):
    """An edge that asks for an API key before it reads a body or looks for a route."""

    def __init__(self, keys: KeysFile, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.keys: KeysFile = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let those through that need no key or have one."""
        if scope["type"] == "http" and (error := check(self.keys, scope)) is not None:
            await self._marked(unauthorized(scope["path"], error), scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
