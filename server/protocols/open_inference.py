"""The Open Inference Protocol, version 2, over REST: what KServe's, Triton's and MLServer's clients speak.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server import __version__
from server.errors import Draining, InvalidBody, ModelNotFound, RequestError, UnsupportedMediaType
from server.inference.columns import show
from server.inference.model import Model
from server.inference.rows import Prediction
from server.metrics.counts import INFER
from server.protocols import json_codec
from server.protocols.endpoint import BodyReader, Endpoint, ErrorAnswer, PredictionRequest
from server.protocols.request_body import Headers
from server.protocols.tensors import DATATYPES, Tensor, outputs, to_table

PREFIX = "/v2"
_BINARY = b"inference-header-content-length"


class InferProtocol:
    """The protocol of ``/v2/models/{name}/infer``; ``max_rows`` is the largest number of rows in one request."""

    route = INFER

    def __init__(self, model: Model, max_rows: int) -> None:
        self._schema = model.schema
        self._name = model.name
        self._version = model.version
        self._max_rows = max_rows

    def owns(self, path: str) -> bool:
        """Return whether a path is below that of the protocol, whether or not there is such a path."""
        return path.startswith(PREFIX)

    def reader(self, media_type: bytes, headers: Headers) -> BodyReader:
        """Return the function that parses JSON, which clients of this protocol often do not declare.

        Raises:
            InvalidBody: the body is in the binary form, an extension of the protocol.
            UnsupportedMediaType: the body is declared as something else.
        """
        if any(name == _BINARY for name, _ in headers):
            raise InvalidBody("the binary data extension is not supported; send tensors as JSON (binary_data=False)")
        kind = media_type.decode("latin-1").split(";")[0].strip().lower()
        if kind not in ("", json_codec.JSON):
            raise UnsupportedMediaType(f"the Content-Type must be {json_codec.JSON}, got {kind[:100]!r}")
        return self._read

    def _read(self, body: bytes) -> PredictionRequest:
        document = json_codec.decode_with_nan(body)
        if not isinstance(document, dict):
            raise InvalidBody(f"the body must be an object, got {show(document)}")
        ident, given = document.get("id"), document.get("inputs")
        if ident is not None and not isinstance(ident, str):
            raise InvalidBody(f"id must be a string, got {show(ident)}")
        if not isinstance(given, list) or not given:
            raise InvalidBody(f"inputs must be a list of at least one tensor, got {show(given)}")
        tensors = [Tensor.parse(one, f"inputs.{i}") for i, one in enumerate(given)]
        wanted = _wanted(document.get("outputs"))
        values = self._schema.table(to_table(tensors, self._schema.columns), self._max_rows)
        return PredictionRequest(values, partial(self._write, ident, wanted))

    def _write(self, ident: str | None, wanted: Sequence[str], prediction: Prediction) -> bytes:
        found = {tensor.name: tensor.document() for tensor in outputs(prediction)}
        for name in wanted:
            if name not in found:
                raise InvalidBody(f"outputs: {name[:100]!r} is none of this model's; expected {' or '.join(found)}")
        document: dict[str, object] = {"model_name": self._name, "model_version": self._version}
        if ident is not None:
            document["id"] = ident
        return json_codec.encode({**document, "outputs": [found[name] for name in wanted or found]})

    def render_error(self, error: RequestError) -> ErrorAnswer:
        """Return ``{"error": ..}``, with 400 for whatever is wrong with the tensors."""
        status = 400 if error.status == 422 else error.status
        return ErrorAnswer(status, json_codec.JSON.encode(), json_codec.encode({"error": error.detail}))


def _wanted(given: object) -> list[str]:
    """The names of the outputs that are asked for; none are all."""
    if given is None:
        return []
    names = [one.get("name") if isinstance(one, dict) else None for one in given] if isinstance(given, list) else [None]
    wanted = [name for name in names if isinstance(name, str)]
    if len(wanted) < len(names):
        raise InvalidBody("outputs must be a list of objects, each with a name")
    if len(set(wanted)) < len(wanted):  # a few bytes more would ask for megabytes more
        raise InvalidBody("outputs names a tensor twice")
    return wanted


@dataclass(frozen=True, slots=True)
class OpenInferenceRoutes:
    """The routes that describe the server and its one model; ``infer`` is the endpoint for predictions."""

    model: Model
    infer: Endpoint

    @property
    def paths(self) -> tuple[str, str]:
        """Where predictions of this model are asked for."""
        root = f"{PREFIX}/models/{self.model.name}"
        return f"{root}/infer", f"{root}/versions/{self.model.version}/infer"

    def routes(self) -> list[Route]:
        """Every path of the protocol; predictions of this very model have paths of their own."""
        found = [
            Route(PREFIX, self.server),
            Route(f"{PREFIX}/health/live", self.live),
            Route(f"{PREFIX}/health/ready", self.ready),
        ]
        for root in (f"{PREFIX}/models/{{name}}", f"{PREFIX}/models/{{name}}/versions/{{version}}"):
            found += [
                Route(root, self.metadata),
                Route(f"{root}/ready", self.model_ready),
                Route(f"{root}/infer", self.no_model, methods=["POST"]),
            ]
        return found

    async def server(self, _request: Request) -> Response:
        """The server's name and version; it has no extensions."""
        return _json({"name": "forkcast", "version": __version__, "extensions": []})

    async def live(self, _request: Request) -> Response:
        """The worker is alive."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether the worker takes requests."""
        _refuse_draining(request)
        return _json({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """Whether the worker takes requests for this model."""
        self._check(request)
        _refuse_draining(request)
        return _json({"name": self.model.name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        """The model's tensors: one a column; those of the answer as its example's prediction has them."""
        self._check(request)
        inputs = [{"name": c.name, "datatype": DATATYPES[c.type], "shape": [-1, 1]} for c in self.model.schema.columns]
        example: Prediction | None = request.state.worker.example
        found = outputs(example) if example is not None else []
        return _json(
            {
                "name": self.model.name,
                "versions": [self.model.version],
                "platform": f"mlflow_{self.model.engine.name}",
                "inputs": inputs,
                "outputs": [{"name": t.name, "datatype": t.datatype, "shape": [-1, *t.shape[1:]]} for t in found],
            }
        )

    async def no_model(self, request: Request) -> Response:
        """A request for predictions that has none of the model's own paths."""
        self._check(request)
        raise ModelNotFound(f"predictions are asked for at {self.paths[0]}")

    def _check(self, request: Request) -> None:
        name, asked = request.path_params["name"], request.path_params.get("version", self.model.version)
        if name != self.model.name:
            raise ModelNotFound(f"there is no model {name[:100]!r}; served is {self.model.name!r}")
        if asked != self.model.version:
            raise ModelNotFound(f"there is no version {asked[:100]!r} of {name!r}; served is {self.model.version!r}")


def _refuse_draining(request: Request) -> None:
    if request.state.worker.draining:
        raise Draining("this worker is draining")


def _json(document: Mapping[str, Any]) -> Response:
    return Response(json_codec.encode(document), media_type=json_codec.JSON)
