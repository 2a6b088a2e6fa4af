"""``POST /predict``, Forkcast's own protocol: one row or many, strictly checked, with confidences."""

from __future__ import annotations

from functools import partial

from server.errors import RequestError, UnsupportedMedia
from server.inference.model import Model
from server.metrics.counts import PREDICT
from server.protocols import json_codec
from server.protocols.endpoint import Ask, Headers, Reader, Refusal

_JSON = json_codec.JSON.encode()
_PROBLEM_JSON = json_codec.PROBLEM_JSON.encode()


class Predict:
    """The wire of ``/predict``; ``max_rows`` is the most rows of one request."""

    route = PREDICT

    def __init__(self, model: Model, max_rows: int) -> None:
        self._parse = model.schema.parse
        self._max_rows = max_rows
        self._one = partial(json_codec.encode_one, version=model.version)
        self._many = partial(json_codec.encode_many, version=model.version)

    def reader(self, media_type: bytes, _headers: Headers) -> Reader:
        """For JSON in UTF-8, and nothing else.

        Raises:
            UnsupportedMedia: the body is declared as something else.
        """
        if media_type != _JSON:
            _check_media_type(media_type.decode("latin-1"))
        return self._read

    def _read(self, body: bytes) -> Ask:
        query = self._parse(json_codec.decode(body), self._max_rows)
        return Ask(query.values, self._many if query.many else self._one)

    def refuse(self, error: RequestError) -> Refusal:
        """A problem document."""
        return Refusal(error.status, _PROBLEM_JSON, json_codec.encode_problem(error.status, error.detail, error.faults))


def _check_media_type(header: str) -> None:
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    charsets = [parameter.removeprefix("charset=").strip('"') for parameter in parameters if "charset=" in parameter]
    if media_type != json_codec.JSON or not {"utf-8", "utf8"}.issuperset(charsets):
        got = f"got {header[:100]!r}" if header else "got none"
        raise UnsupportedMedia(f"the Content-Type must be {json_codec.JSON} in UTF-8, {got}")
