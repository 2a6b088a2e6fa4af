"""The Open Inference Protocol, version 2, over REST, for clients of KServe, Triton and MLServer.

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
from server.inference.columns import Policy, show
from server.inference.model import Model
from server.inference.rows import Prediction
from server.metrics.counts import INFER
from server.protocols import json_codec
from server.protocols.endpoint import BodyReader, Endpoint, ErrorAnswer, PredictionRequest
from server.protocols.output_tensors import PROBABILITIES_NAME, output_tensors, probability_tensors
from server.protocols.request_body import Headers
from server.protocols.tensors import Tensor, input_tensors, to_table

PREFIX = "/v2"
_BINARY_HEADER = b"inference-header-content-length"


class InferProtocol:
    """The protocol of ``/v2/models/{name}/infer``; ``max_rows`` is the largest number of rows in one request."""

    route = INFER

    def __init__(self, model: Model, max_rows: int) -> None:
        self._model = model
        self._schema = model.schema
        self._name = model.name
        self._version = model.version
        self._max_rows = max_rows

    def owns(self, path: str) -> bool:
        """Return whether ``path`` is below ``/v2``, even if there is no route for it."""
        return path.startswith(PREFIX)

    def reader(self, content_type: bytes, headers: Headers, _query: bytes) -> BodyReader:
        """Return the function that parses JSON. Clients of this protocol often send no Content-Type.

        Raises:
            InvalidBody: the body uses the binary data extension of the protocol.
            UnsupportedMediaType: the Content-Type is not JSON.
        """
        if any(name == _BINARY_HEADER for name, _ in headers):
            raise InvalidBody("the binary data extension is not supported; send tensors as JSON (binary_data=False)")
        media_type = content_type.decode("latin-1").split(";")[0].strip().lower()
        if media_type not in ("", json_codec.JSON):
            raise UnsupportedMediaType(f"the Content-Type must be {json_codec.JSON}, got {media_type[:100]!r}")
        return self._read

    def _read(self, body: bytes) -> PredictionRequest:
        document = json_codec.decode_with_nan(body)
        if not isinstance(document, dict):
            raise InvalidBody(f"the body must be an object, got {show(document)}")
        request_id, inputs = document.get("id"), document.get("inputs")
        if request_id is not None and not isinstance(request_id, str):
            raise InvalidBody(f"id must be a string, got {show(request_id)}")
        if not isinstance(inputs, list) or not inputs:
            raise InvalidBody(f"inputs must be a list of at least one tensor, got {show(inputs)}")
        tensors = [Tensor.parse(tensor, f"inputs.{i}") for i, tensor in enumerate(inputs)]
        output_names = _output_names(document.get("outputs"))
        values = self._schema.parse_table(to_table(tensors, self._schema), self._max_rows)
        params = self._model.parameters.parse(document.get("parameters"), "#/parameters", Policy.LENIENT)
        options = self._model.options(values, probabilities=PROBABILITIES_NAME in output_names, params=params)
        return PredictionRequest(values, partial(self._write, request_id, output_names), options)

    def _write(self, request_id: str | None, output_names: Sequence[str], prediction: Prediction) -> bytes:
        """Return the response with the requested outputs, or with all if none is requested."""
        outputs = {tensor.name: [tensor.to_document()] for tensor in output_tensors(prediction)}
        if PROBABILITIES_NAME in output_names and prediction.probabilities is not None:
            outputs.setdefault(PROBABILITIES_NAME, [tensor.to_document() for tensor in probability_tensors(prediction)])
        for name in output_names:
            if name not in outputs:
                available = " or ".join(outputs)
                raise InvalidBody(f"outputs: {name[:100]!r} is not an output of this model; expected {available}")
        document: dict[str, object] = {"model_name": self._name, "model_version": self._version}
        if request_id is not None:
            document["id"] = request_id
        chosen = [tensor for name in output_names or outputs for tensor in outputs[name]]
        return json_codec.encode({**document, "outputs": chosen})

    def render_error(self, error: RequestError) -> ErrorAnswer:
        """Return ``{"error": ..}``, with status 400 instead of 422."""
        status = 400 if error.status == 422 else error.status
        return ErrorAnswer(status, json_codec.JSON.encode(), json_codec.encode({"error": error.detail}))


def _output_names(outputs: object) -> list[str]:
    """Return the names of the requested outputs; an empty list requests all."""
    if outputs is None:
        return []
    if not isinstance(outputs, list):
        raise InvalidBody("outputs must be a list of objects, each with a name")
    names = [output["name"] for output in outputs if isinstance(output, dict) and isinstance(output.get("name"), str)]
    if len(names) < len(outputs):
        raise InvalidBody("outputs must be a list of objects, each with a name")
    # With duplicates, a few more bytes of request could cause megabytes more of response.
    if len(set(names)) < len(names):
        raise InvalidBody("outputs names a tensor twice")
    return names


@dataclass(frozen=True, slots=True)
class OpenInferenceRoutes:
    """The routes that describe the server and its one model; ``infer`` is the endpoint for predictions."""

    model: Model
    infer: Endpoint

    @property
    def paths(self) -> tuple[str, str]:
        """The paths for predictions: without and with the version."""
        root = f"{PREFIX}/models/{self.model.name}"
        return f"{root}/infer", f"{root}/versions/{self.model.version}/infer"

    def routes(self) -> list[Route]:
        """Return the routes of the protocol, except ``paths``, which go to the endpoint without routing."""
        routes = [
            Route(PREFIX, self.server),
            Route(f"{PREFIX}/health/live", self.live),
            Route(f"{PREFIX}/health/ready", self.ready),
        ]
        for root in (f"{PREFIX}/models/{{name}}", f"{PREFIX}/models/{{name}}/versions/{{version}}"):
            routes += [
                Route(root, self.metadata),
                Route(f"{root}/ready", self.model_ready),
                Route(f"{root}/infer", self.unknown_model, methods=["POST"]),
            ]
        return routes

    async def server(self, _request: Request) -> Response:
        """Answer with the server's name, its version and an empty list of extensions."""
        return _json({"name": "forkcast", "version": __version__, "extensions": []})

    async def live(self, _request: Request) -> Response:
        """Answer 200: the worker is alive."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer 200 if the worker accepts requests, or 503 while it is draining."""
        _check_not_draining(request)
        return _json({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """Answer 200 if the worker accepts requests for this model, or 503 while it is draining."""
        self._check(request)
        _check_not_draining(request)
        return _json({"name": self.model.name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        """Answer with the input tensors, one per column, and the output tensors of the example's prediction."""
        self._check(request)
        inputs = input_tensors(self.model.schema, self.model.example)
        example: Prediction | None = request.state.worker.example
        tensors = output_tensors(example) if example is not None else []
        return _json(
            {
                "name": self.model.name,
                "versions": [self.model.version],
                "platform": f"mlflow_{self.model.engine.name}",
                "inputs": inputs,
                "outputs": [{"name": t.name, "datatype": t.datatype, "shape": [-1, *t.shape[1:]]} for t in tensors],
            }
        )

    async def unknown_model(self, request: Request) -> Response:
        """Answer 404 to a prediction request for another model, or for a path that ``paths`` spells differently."""
        self._check(request)
        raise ModelNotFound(f"send prediction requests to {self.paths[0]}")

    def _check(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version", self.model.version)
        if name != self.model.name:
            raise ModelNotFound(f"unknown model {name[:100]!r}; this server serves {self.model.name!r}")
        if version != self.model.version:
            served = f"this server serves version {self.model.version!r}"
            raise ModelNotFound(f"unknown version {version[:100]!r} of {name!r}; {served}")


def _check_not_draining(request: Request) -> None:
    if request.state.worker.draining:
        raise Draining("this worker is draining")


def _json(document: Mapping[str, Any]) -> Response:
    return Response(json_codec.encode(document), media_type=json_codec.JSON)
