"""The protocol of ``POST /predict``, Forkcast's own: strictly validated rows, answered with confidences."""

from __future__ import annotations

from functools import partial

from server.errors import RequestError, UnsupportedMediaType
from server.inference.model import Model
from server.metrics.counts import PREDICT
from server.protocols import json_codec
from server.protocols.endpoint import BodyReader, ErrorAnswer, PredictionRequest
from server.protocols.request_body import Headers

_JSON = json_codec.JSON.encode()
_PROBLEM_JSON = json_codec.PROBLEM_JSON.encode()


class PredictProtocol:
    """The protocol of ``/predict``; ``max_rows`` is the largest number of rows in one request."""

    route = PREDICT

    def __init__(self, model: Model, max_rows: int) -> None:
        self._parse = model.schema.parse
        self._max_rows = max_rows
        self._encode_single = partial(json_codec.encode_prediction, version=model.version)
        self._encode_many = partial(json_codec.encode_predictions, version=model.version)

    def owns(self, _path: str) -> bool:
        """Return True, because this protocol owns every path that no other protocol owns."""
        return True

    def reader(self, content_type: bytes, _headers: Headers) -> BodyReader:
        """Return the function that parses JSON in UTF-8.

        Raises:
            UnsupportedMediaType: the Content-Type is not JSON in UTF-8.
        """
        if content_type != _JSON:
            _check_content_type(content_type.decode("latin-1"))
        return self._read

    def _read(self, body: bytes) -> PredictionRequest:
        query = self._parse(json_codec.decode(body), self._max_rows)
        return PredictionRequest(query.values, self._encode_many if query.has_instances else self._encode_single)

    def render_error(self, error: RequestError) -> ErrorAnswer:
        """Return a problem document (RFC 9457)."""
        return problem(error)


def problem(error: RequestError) -> ErrorAnswer:
    """Return the response for an error as a problem document (RFC 9457)."""
    body = json_codec.encode_problem(error.status, error.detail, error.faults)
    return ErrorAnswer(error.status, _PROBLEM_JSON, body)


def _check_content_type(header: str) -> None:
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    charsets = [parameter.removeprefix("charset=").strip('"') for parameter in parameters if "charset=" in parameter]
    if media_type != json_codec.JSON or not {"utf-8", "utf8"}.issuperset(charsets):
        got = f"got {header[:100]!r}" if header else "got none"
        raise UnsupportedMediaType(f"the Content-Type must be {json_codec.JSON} in UTF-8, {got}")
