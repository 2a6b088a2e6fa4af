"""The HTTP contract: routes, and one place where errors become answers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import protocol
from server.batching import Batcher
from server.errors import BodyTooLarge, ClientGone, Draining, RequestError, UnsupportedMedia
from server.model import Model
from server.openapi import openapi_document
from server.pages import asset_routes, redoc_page, swagger_page
from server.rows import Prediction
from server.settings import Settings

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Serving:
    """What one worker makes for itself after the fork; the worker class sets ``draining``."""

    batcher: Batcher
    served_by: str
    draining: bool = False


def create_app(settings: Settings, model: Model) -> ASGIApp:
    """The ASGI application of one worker. The lifespan makes its queue and warms the model up."""
    endpoints = Endpoints(settings, model)
    app = Starlette(
        routes=[
            Route("/predict", endpoints.predict, methods=["POST"]),
            Route("/health", endpoints.health),
            Route("/ready", endpoints.ready),
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
    return Edge(app, settings.replica, model)


class Endpoints:
    """One method a route, over the model and the limits of this replica."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self._settings = settings
        self._model = model
        self._openapi = protocol.encode(openapi_document(model, settings.max_pending))

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[dict[str, object]]:
        """Warm up before the first request, and hand every request the worker's own state."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")
        batcher = Batcher(
            self._model.engine.predict,
            executor,
            max_batch_rows=self._settings.max_batch_rows,
            max_pending=self._settings.max_pending,
        )
        await self._warm_up(batcher)
        yield {"serving": Serving(batcher, served_by(self._settings.replica))}
        batcher.close()
        executor.shutdown(wait=False)

    async def _warm_up(self, batcher: Batcher) -> None:
        try:
            await batcher.submit(self._model.example_rows)
        except Exception:
            # It still may answer real rows; those that it cannot, it answers with a 500 that names the same reason.
            logger.exception("the model could not predict its example; it is served all the same")

    async def predict(self, request: Request) -> Response:
        """Bytes -> object -> rows -> batch -> prediction -> bytes."""
        document = protocol.decode(await read_json(request, self._settings.max_body_bytes))
        query = self._model.schema.parse(document, self._settings.max_pending)
        answer = request.state.serving.batcher.submit(query.rows)
        # The worker class cancels it when the client goes away, so that it leaves the queue.
        request.scope["state"]["answer"] = answer
        prediction = await _wait(answer)
        encode = protocol.encode_many if query.many else protocol.encode_one
        return Response(encode(prediction, self._model.version), media_type=protocol.JSON)

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
            "pending_rows": request.state.serving.batcher.pending,
        }
        if model.stale is not None:
            document["stale"] = model.stale
        return Response(protocol.encode(document), media_type=protocol.JSON)

    async def ready(self, request: Request) -> Response:
        """Whether the worker takes requests."""
        if request.state.serving.draining:
            raise Draining("this worker is draining")
        return Response(protocol.encode({"status": "ready"}), media_type=protocol.JSON)

    async def index(self, _request: Request) -> Response:
        """What this is, and its links."""
        links = {"predict": "/predict", "health": "/health", "ready": "/ready"}
        links |= {"docs": "/docs", "redoc": "/redoc", "openapi": "/openapi.json"}
        document = {
            "name": "Forkcast",
            "serves": f"{self._model.name} version {self._model.version}",
            "trained_on": self._model.trained_on,
            "links": links,
            "example": {"POST /predict": self._model.example},
        }
        return Response(protocol.encode(document), media_type=protocol.JSON)

    async def openapi(self, _request: Request) -> Response:
        """The contract, for programs."""
        return Response(self._openapi, media_type=protocol.JSON)

    async def docs(self, _request: Request) -> Response:
        """The contract in Swagger UI."""
        return HTMLResponse(swagger_page(self._model.name))

    async def redoc(self, _request: Request) -> Response:
        """The contract in Redoc."""
        return HTMLResponse(redoc_page(self._model.name))


async def _wait(answer: asyncio.Future[Prediction]) -> Prediction:
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClientGone("the client went away") from None


async def read_json(request: Request, limit: int) -> bytes:
    """A body of at most ``limit`` bytes that is declared as JSON.

    Raises:
        UnsupportedMedia, BodyTooLarge, ClientGone: as their names say.
    """
    _check_media_type(request.headers.get("content-type", ""))
    declared = request.headers.get("content-length", "0")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if max(len(body), int(declared)) > limit:
                raise BodyTooLarge(f"the body is larger than {limit} bytes")
    except ClientDisconnect:
        raise ClientGone("the client went away") from None
    return bytes(body)


def _check_media_type(header: str) -> None:
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    charsets = [parameter.removeprefix("charset=").strip('"') for parameter in parameters if "charset=" in parameter]
    if media_type != protocol.JSON or not {"utf-8", "utf8"}.issuperset(charsets):
        got = f"got {header[:100]!r}" if header else "got none"
        raise UnsupportedMedia(f"the Content-Type must be {protocol.JSON} in UTF-8, {got}")


async def on_request_error(_request: Request, error: Exception) -> Response:
    """What Forkcast raised on purpose: the class says the status."""
    if not isinstance(error, RequestError):
        raise error
    if isinstance(error, ClientGone):
        return Response(status_code=error.status)
    content = protocol.encode_problem(error.status, error.detail, error.faults)
    return Response(content, error.status, error.headers, protocol.PROBLEM_JSON)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette raised: no such path, or a method that the path has not."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.scope["path"][:200]
    details = {404: f"there is no {path}; see / for what there is", 405: f"{path} does not take {request.method}"}
    content = protocol.encode_problem(error.status_code, details.get(error.status_code, error.detail))
    return Response(content, error.status_code, error.headers, protocol.PROBLEM_JSON)


async def on_unforeseen(_request: Request, _error: Exception) -> Response:
    """Anything else: Starlette raises it again after this answer, and the edge logs it with its traceback."""
    return Response(
        protocol.encode_problem(500, "this is our fault, and it is logged"), 500, None, protocol.PROBLEM_JSON
    )


def served_by(replica: str) -> str:
    """Who gives an answer: the replica, and this process, its worker."""
    return f"{replica}/{os.getpid()}"


class Edge:
    """The outermost layer: ``X-Served-By`` on every answer, and what nobody foresaw into the log.

    Gunicorn's hooks see it, and through it the model.
    """

    def __init__(self, app: ASGIApp, replica: str, model: Model) -> None:
        self.model = model
        self._app = app
        self._replica = replica
        self._header: tuple[bytes, bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass through, with one header more.

        An error that was answered goes no further: the server would close the connection, which is still good.
        """
        if self._header is None:  # not before the fork
            self._header = (b"x-served-by", served_by(self._replica).encode())
        header, answered = self._header, False

        async def send_marked(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            if not answered:
                raise
            logger.exception("unforeseen, answered with 500: %s %s", scope["method"], scope["path"])
