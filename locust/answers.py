"""What an answer must be: a prediction, not only a status."""

from __future__ import annotations

import json

from failures import Failure


def check(status: int, body: bytes, rows: int | None = None) -> None:
    """Look for a prediction, or for one for each of ``rows``.

    Raises:
        Failure: there is none, or one that cannot be.
    """
    if status != 200:
        raise Failure(f"status {status}")
    try:
        answer = json.loads(body)
    except ValueError:
        raise Failure("malformed") from None
    if not isinstance(answer, dict) or "model_version" not in answer or not _predicts(answer, rows):
        raise Failure("no prediction")


def _predicts(answer: dict[str, object], rows: int | None) -> bool:
    if rows is None:
        return answer.get("prediction") is not None and _is_confidence(answer.get("confidence"))
    labels, confidences = answer.get("predictions"), answer.get("confidences")
    return (
        isinstance(labels, list)
        and isinstance(confidences, list)
        and len(labels) == len(confidences) == rows
        and None not in labels
        and all(map(_is_confidence, confidences))
    )


def _is_confidence(value: object) -> bool:
    """Between 0 and 1; none from a model without probabilities; a list from one with several outputs."""
    if isinstance(value, list):
        return all(map(_is_confidence, value))
    return value is None or (isinstance(value, (int, float)) and 0 <= value <= 1)
