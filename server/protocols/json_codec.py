"""Decoding and encoding of JSON. No other module of the server imports orjson."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson

from server.errors import Fault, InvalidJson
from server.inference.rows import ClassProbabilities, Prediction

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
                document = json.loads(body, parse_constant=_nan_to_none)
                # Python's json also accepts half of a surrogate pair, which no answer in UTF-8 can hold.
                json.dumps(document, ensure_ascii=False).encode()
                return document
        raise InvalidJson(f"the body is not JSON: {error}") from None


def _nan_to_none(constant: str) -> None:
    if constant != "NaN":
        raise ValueError(constant)


def encode(document: Mapping[str, object]) -> bytes:
    """Return a document as JSON."""
    return orjson.dumps(document, _to_json, orjson.OPT_NON_STR_KEYS)


def encode_value(value: object) -> bytes:
    """Return any JSON value as JSON."""
    return orjson.dumps(value, _to_json)


def encode_prediction(prediction: Prediction, version: str) -> bytes:
    """Return the response of ``/predict`` to a request for one row."""
    label, confidence = prediction.first
    return _encode_labels({"prediction": label, "confidence": confidence, "model_version": version})


def encode_predictions(prediction: Prediction, version: str) -> bytes:
    """Return the response of ``/predict`` to ``instances``; a model without probabilities has null confidences."""
    return _encode_labels(_predictions(prediction, version))


def encode_prediction_with_probabilities(prediction: Prediction, version: str) -> bytes:
    """Return the response to a request for one row and the probabilities of all classes, null if there are none."""
    label, confidence = prediction.first
    document = {"prediction": label, "confidence": confidence, "model_version": version}
    return _encode_labels({**document, "probabilities": _probabilities(prediction)[0]})


def encode_predictions_with_probabilities(prediction: Prediction, version: str) -> bytes:
    """Return the response to ``instances`` with the probabilities of all classes for each row."""
    document = {**_predictions(prediction, version), "probabilities": _probabilities(prediction)}
    return _encode_labels(document)


def _encode_labels(document: dict[str, object]) -> bytes:
    """Return a response as JSON. Names that are not strings, which take longer, are only in few models' labels."""
    try:
        return orjson.dumps(document, _to_json)
    except TypeError:
        return encode(document)


def _predictions(prediction: Prediction, version: str) -> dict[str, object]:
    confidences = prediction.confidences or [None] * len(prediction.labels)
    return {"predictions": prediction.labels, "confidences": confidences, "model_version": version}


def _probabilities(prediction: Prediction) -> list[Any]:
    """Return an object of probabilities by class for each row, or a list of them if there are several outputs."""
    if prediction.probabilities is None:
        return [None] * len(prediction.labels)
    outputs = [
        [dict(zip(names, row, strict=True)) for row in values.tolist()]
        for names, values in ((class_names(output), output.values) for output in prediction.probabilities)
    ]
    if len(outputs) == 1:
        return outputs[0]
    return [list(row) for row in zip(*outputs, strict=True)]


def class_names(output: ClassProbabilities) -> list[str]:
    """Return the classes as texts, which JSON needs for the names of an object; true and false as in JSON."""
    return [str(name).lower() if isinstance(name, bool) else str(name) for name in output.classes]


def _to_json(value: Any) -> object:
    """Return the value that JSON has for one of a model's results: MLflow writes NumPy's, dates and bytes so."""
    if hasattr(value, "tolist"):  # NumPy
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "to_dict"):  # pandas
        return value.to_dict()
    raise TypeError(f"a result of the model cannot be written as JSON: {type(value).__name__}")


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
