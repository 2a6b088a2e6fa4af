"""Decoding and encoding of JSON. No other module of the server imports orjson."""

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

# The names of RFC 9110, which Python uses from 3.13 on.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}


def decode(body: bytes) -> object:
    """Return the value of a JSON document (RFC 8259) in UTF-8.

    Raises:
        InvalidJson: the body is not JSON, as with NaN or Infinity; the message has the line and the column.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from None


def decode_with_nan(body: bytes) -> object:
    """Return the value of a JSON document in which NaN stands for null, as Python's json writes missing values.

    Raises:
        InvalidJson: the body is not JSON except for NaN; the message has the line and the column.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body:
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(body, parse_constant=_nan_to_none)
        raise InvalidJson(f"the body is not JSON: {error}") from None


def _nan_to_none(constant: str) -> None:
    if constant != "NaN":
        raise ValueError(constant)


def encode(document: Mapping[str, object]) -> bytes:
    """Return a document as JSON."""
    return orjson.dumps(document)


def encode_prediction(prediction: Prediction, version: str) -> bytes:
    """Return the response of ``/predict`` to a request for one row."""
    label, confidence = prediction.first
    return orjson.dumps({"prediction": label, "confidence": confidence, "model_version": version})


def encode_predictions(prediction: Prediction, version: str) -> bytes:
    """Return the response of ``/predict`` to ``instances``; a model without probabilities has null confidences."""
    confidences = prediction.confidences or [None] * len(prediction.labels)
    return orjson.dumps({"predictions": prediction.labels, "confidences": confidences, "model_version": version})


def encode_problem(status: int, detail: str, faults: Sequence[Fault] = ()) -> bytes:
    """Return a problem document (RFC 9457), whose ``errors`` have the form of the example in its section 3."""
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if faults:
        problem["errors"] = [{"detail": fault.detail, "pointer": fault.pointer} for fault in faults]
    return orjson.dumps(problem)
