"""Bytes to objects and back. The only importer of orjson."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson

from server.errors import Fault, InvalidJson
from server.inference.rows import Prediction

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"

# As RFC 9110 names them, whose words Python took over in 3.13.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}


def decode(body: bytes) -> object:
    """One JSON document (RFC 8259) in UTF-8.

    Raises:
        InvalidJson: saying what is wrong and at which line and column; NaN and Infinity are not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from None


def decode_with_nan(body: bytes) -> object:
    """The same, and NaN counts as null: Python's json writes it for what a DataFrame or an array has not.

    Raises:
        InvalidJson: as above.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body:
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(body, parse_constant=_nothing)
        raise InvalidJson(f"the body is not JSON: {error}") from None


def _nothing(word: str) -> None:
    if word != "NaN":
        raise ValueError(word)


def encode(document: Mapping[str, object]) -> bytes:
    """Any JSON document of ours."""
    return orjson.dumps(document)


def encode_one(prediction: Prediction, version: str) -> bytes:
    """The answer to a request for one row."""
    label, confidence = prediction.first
    return orjson.dumps({"prediction": label, "confidence": confidence, "model_version": version})


def encode_many(prediction: Prediction, version: str) -> bytes:
    """The answer to a request with ``instances``; a model without probabilities has null confidences."""
    confidences = prediction.confidences or [None] * len(prediction.labels)
    return orjson.dumps({"predictions": prediction.labels, "confidences": confidences, "model_version": version})


def encode_problem(status: int, detail: str, faults: Sequence[Fault] = ()) -> bytes:
    """A problem document (RFC 9457), its ``errors`` in the form of that standard's section 3, by JSON pointer."""
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if faults:
        problem["errors"] = [{"detail": fault.detail, "pointer": fault.pointer} for fault in faults]
    return orjson.dumps(problem)
