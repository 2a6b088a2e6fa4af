"""The protocol of ``POST /predict``, Forkcast's own: strictly validated rows, answered with confidences."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qs

from server.errors import InvalidRows, RequestError, UnsupportedMediaType
from server.inference.columns import Policy, show
from server.inference.model import Model
from server.metrics.counts import PREDICT
from server.protocols import json_codec
from server.protocols.endpoint import BodyReader, ErrorAnswer, PredictionRequest
from server.protocols.request_body import Headers

_JSON = json_codec.JSON.encode()
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_PROBLEM_JSON = json_codec.PROBLEM_JSON.encode()


class PredictProtocol:
    """The protocol of ``/predict``; ``max_rows`` is the largest number of rows in one request."""

    route = PREDICT

    def __init__(self, model: Model, max_rows: int) -> None:
        self._model = model
        self._max_rows = max_rows
        plain = (json_codec.encode_prediction, json_codec.encode_predictions)
        full = (json_codec.encode_prediction_with_probabilities, json_codec.encode_predictions_with_probabilities)
        # The functions that write an answer for one row and for several, without and with probabilities.
        self._encode = {
            False: tuple(partial(encode, version=model.version) for encode in plain),
            True: tuple(partial(encode, version=model.version) for encode in full),
        }
        self._read_plain = partial(self._read, probabilities=False)

    def owns(self, _path: str) -> bool:
        """Return True, because this protocol owns every path that no other protocol owns."""
        return True

    def reader(self, content_type: bytes, _headers: Headers, query: bytes) -> BodyReader:
        """Return the function that parses JSON in UTF-8.

        Raises:
            InvalidRows: the query's ``probabilities`` is neither true nor false.
            UnsupportedMediaType: the Content-Type is not JSON in UTF-8.
        """
        if content_type != _JSON:
            _check_content_type(content_type.decode("latin-1"))
        return self._read_plain if not query else partial(self._read, probabilities=_wants_probabilities(query))

    def _read(self, body: bytes, *, probabilities: bool) -> PredictionRequest:
        request = self._model.schema.parse(json_codec.decode(body), self._max_rows)
        options = None
        if probabilities or request.params is not None or not self._model.schema.is_typed:
            params = self._model.parameters.parse(request.params, "#/params", Policy.STRICT)
            options = self._model.options(request.values, probabilities=probabilities, params=params)
        write = self._encode[probabilities][request.has_instances]
        return PredictionRequest(request.values, write, options, "#/instances" if request.has_instances else None)

    def render_error(self, error: RequestError) -> ErrorAnswer:
        """Return a problem document (RFC 9457)."""
        return problem(error)


def _wants_probabilities(query: bytes) -> bool:
    """Return whether the query string asks for the probabilities of all classes; other parameters are ignored."""
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("probabilities", ["false"])
    if values[-1] not in _FLAGS:
        raise InvalidRows(f"the query parameter probabilities must be true or false, got {show(values[-1])}")
    return _FLAGS[values[-1]]


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
