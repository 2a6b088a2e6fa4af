"""The routes of a replica, and the handlers of those that do not predict."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from server.http.api_keys import KeysFile
from server.http.error_handlers import ErrorHandlers
from server.http.health import HealthRoutes
from server.http.middleware import GuardedReplicaApp, Reload, ReplicaApp, identity_headers
from server.http.openapi import openapi_document
from server.http.pages import asset_routes, redoc_page, swagger_page
from server.inference.batcher import Batcher
from server.inference.model import Model
from server.inference.rows import Prediction
from server.metrics.counts import Metrics
from server.metrics.scrape import Scrape
from server.protocols import json_codec, mlflow_scoring, open_inference
from server.protocols.endpoint import Endpoint
from server.protocols.predict import PredictProtocol
from server.settings import Settings
from server.workers.state import WorkerState

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    model: Model,
    reload: Reload | None = None,
    metrics: Metrics | None = None,
    keys: KeysFile | None = None,
) -> ReplicaApp:
    """Return the ASGI application of one worker. Its lifespan creates the worker's queue and warms the model up.

    ``metrics`` counts for all workers of the replica; without it, this process counts for itself. With ``keys``,
    requests need an API key.
    """
    reload, metrics = reload or Reload(), metrics or Metrics()
    rows = settings.max_pending
    scoring, infer = mlflow_scoring.ScoringProtocol(model, rows), open_inference.InferProtocol(model, rows)
    # The last protocol owns every path that no other owns.
    protocols = (scoring, infer, PredictProtocol(model, rows))
    invocations, inference, predict = (Endpoint(protocol, settings.max_body_bytes) for protocol in protocols)
    errors = ErrorHandlers(protocols)
    health = HealthRoutes(settings, model, reload)
    service = ServiceRoutes(settings, model, metrics, guarded=keys is not None)
    v2 = open_inference.OpenInferenceRoutes(model, inference)
    app = Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/invocations", invocations, methods=["POST"]),
            Route("/ping", mlflow_scoring.ping),
            Route("/version", mlflow_scoring.mlflow_version),
            *v2.routes(),
            Route("/health", health.health),
            Route("/ready", health.ready),
            Route("/metrics", service.metrics),
            Route("/", service.index),
            Route("/openapi.json", service.openapi),
            Route("/docs", service.docs),
            Route("/redoc", service.redoc),
            *asset_routes(),
        ],
        lifespan=service.lifespan,
        exception_handlers=errors.by_exception,
    )
    app.router.redirect_slashes = False
    endpoints = {"/predict": predict, "/invocations": invocations, **dict.fromkeys(v2.paths, inference)}
    replica_app = ReplicaApp if keys is None else partial(GuardedReplicaApp, keys, errors)
    return replica_app(app, endpoints, settings.replica, model, reload, metrics=metrics)


class ServiceRoutes:
    """The routes that describe the model and count requests, one method each; and the lifespan of a worker."""

    def __init__(self, settings: Settings, model: Model, metrics: Metrics, *, guarded: bool = False) -> None:
        self._settings = settings
        self._model = model
        self._metrics = metrics
        self._scrape = Scrape(metrics, model)
        self._openapi = json_codec.encode(openapi_document(model, settings.max_pending, guarded=guarded))

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[dict[str, object]]:
        """Warm up before the first request, and provide every request with the worker's state."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")
        batcher = Batcher(
            self._model.predict,
            executor,
            max_batch_rows=self._settings.max_batch_rows,
            max_pending=self._settings.max_pending,
            observer=self._metrics,
        )
        example = await self._warm_up(batcher)
        headers = identity_headers(self._settings.replica, self._model.version)
        worker = WorkerState(batcher, headers, example, self._metrics)
        worker.publish()
        yield {"worker": worker}
        batcher.close()
        executor.shutdown(wait=False)

    async def _warm_up(self, batcher: Batcher) -> Prediction | None:
        """Time the model on its example and return the prediction, or None if the model refused it before the fork."""
        if not self._model.predicts_example:
            return None
        try:
            return await batcher.warm_up(self._model.example_row)
        except Exception:
            # The model predicted this row before the fork. An error here would keep every worker from booting.
            logger.exception("the warm-up failed; all predict calls run in a thread")
            return None

    def metrics(self, request: Request) -> Response:
        """Answer a scrape of Prometheus, in a thread, because the kernel takes milliseconds to add up memory usage."""
        request.state.worker.publish()
        text, media_type = self._scrape.render(request.headers.get("accept", ""))
        return Response(text, media_type=media_type)

    async def index(self, _request: Request) -> Response:
        """Answer with the name of the model, links and an example."""
        links = {"predict": "/predict", "invocations": "/invocations", "v2": open_inference.PREFIX, "health": "/health"}
        links |= {"ready": "/ready", "docs": "/docs", "redoc": "/redoc", "openapi": "/openapi.json"}
        document: dict[str, object] = {
            "name": "Forkcast",
            "serves": f"{self._model.name} version {self._model.version}",
            "trained_on": self._model.trained_on,
            "links": links,
            "example": {"POST /predict": self._model.example_request},
        }
        if self._model.example_is_synthetic:
            document["note"] = "the example was generated: the model was logged without input_example"
        return Response(json_codec.encode(document), media_type=json_codec.JSON)

    async def openapi(self, _request: Request) -> Response:
        """Answer with the OpenAPI document."""
        return Response(self._openapi, media_type=json_codec.JSON)

    async def docs(self, _request: Request) -> Response:
        """Answer with the OpenAPI document in Swagger UI."""
        return HTMLResponse(swagger_page(self._model.name))

    async def redoc(self, _request: Request) -> Response:
        """Answer with the OpenAPI document in Redoc."""
        return HTMLResponse(redoc_page(self._model.name))
