"""The liveness (``/health``) and readiness (``/ready``) of a worker."""

from __future__ import annotations

import os

from starlette.requests import Request
from starlette.responses import Response

from server.errors import Draining
from server.http.middleware import Reload
from server.inference.model import Model
from server.protocols import json_codec
from server.settings import Settings
from server.system import cgroup


class HealthRoutes:
    """The handlers of the routes for probes and for the make verbs."""

    def __init__(self, settings: Settings, model: Model, reload: Reload) -> None:
        self._settings = settings
        self._model = model
        self._reload = reload

    async def health(self, request: Request) -> Response:
        """Answer 200 with the model that is served, the replica and its memory use."""
        model = self._model
        document: dict[str, object] = {
            "status": "ok",
            "model": {
                "name": model.name,
                "registered_name": model.registered_name,
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
            "pending_rows": request.state.worker.batcher.pending,
        }
        if model.stale is not None:
            document["stale"] = model.stale
        if self._reload.refused is not None:
            document["refused"] = self._reload.refused
        return Response(json_codec.encode(document), media_type=json_codec.JSON)

    @staticmethod
    async def ready(request: Request) -> Response:
        """Answer 200, or 503 while the worker is draining.

        Raises:
            Draining: the worker is stopping.
        """
        if request.state.worker.draining:
            raise Draining("this worker is draining")
        return Response(json_codec.encode({"status": "ready"}), media_type=json_codec.JSON)
