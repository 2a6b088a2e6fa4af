"""Tests of the check that the load generator makes on each answer."""

from __future__ import annotations

import pytest

from answers import check
from failures import Failure

VERSION = b'"model_version": "1"'


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'{"prediction": 3, "confidence": 0.95, %s}' % VERSION, None),
        (b'{"prediction": 0, "confidence": 0, %s}' % VERSION, None),
        (b'{"prediction": "yes", "confidence": null, %s}' % VERSION, None),
        (b'{"prediction": [1, 2], "confidence": [0.5, 1.0], %s}' % VERSION, None),
        (b'{"predictions": [1, 0], "confidences": [0.5, null], %s}' % VERSION, 2),
    ],
)
def test_valid_predictions_are_accepted(body: bytes, rows: int | None) -> None:
    """A prediction with a version is accepted, with a confidence from 0 to 1 or null, for one row or several."""
    check(200, body, rows)


@pytest.mark.parametrize(
    ("status", "body", "rows", "name"),
    [
        (503, b"", None, "status 503"),
        (422, b'{"prediction": 3, "confidence": 0.95, %s}' % VERSION, None, "status 422"),
        (200, b"", None, "malformed"),
        (200, b"<html>", None, "malformed"),
        (200, b"\xff", None, "malformed"),
        (200, b"[]", None, "no prediction"),
        (200, b"{%s}" % VERSION, None, "no prediction"),
        (200, b'{"prediction": null, "confidence": 0.95, %s}' % VERSION, None, "no prediction"),
        (200, b'{"prediction": 3, "confidence": 1.5, %s}' % VERSION, None, "no prediction"),
        (200, b'{"prediction": 3, "confidence": "high", %s}' % VERSION, None, "no prediction"),
        (200, b'{"prediction": 3, "confidence": 0.95}', None, "no prediction"),
        (200, b'{"prediction": 3, "confidence": 0.95, %s}' % VERSION, 1, "no prediction"),
        (200, b'{"predictions": [1], "confidences": [1], %s}' % VERSION, 2, "no prediction"),
        (200, b'{"predictions": [1, null], "confidences": [1, 1], %s}' % VERSION, 2, "no prediction"),
        (200, b'{"predictions": [1, 2], "confidences": [1, 2], %s}' % VERSION, 2, "no prediction"),
    ],
)
def test_invalid_responses_raise_a_named_failure(status: int, body: bytes, rows: int | None, name: str) -> None:
    """Any other answer raises a named failure: another status, malformed JSON, or no valid prediction."""
    with pytest.raises(Failure) as caught:
        check(status, body, rows)
    assert repr(caught.value) == name
