"""Bytes to objects and back."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Fault, InvalidJson
from server.inference.rows import Prediction
from server.protocols.json_codec import decode, encode, encode_many, encode_one, encode_problem

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.recursive(
    LEAVES | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} {}',
        b"NaN",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 01}',
        b'"\\ud800"',
        b'{"a": "\xe9"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b"[" * 100_000,
        b"elevation=2596&slope=3",
    ],
)
def test_invalid_json_error_names_the_position(body: bytes) -> None:
    """What is not one JSON document in UTF-8 is a 400 that says where, in one short line."""
    with pytest.raises(InvalidJson, match=r"^the body is not JSON: .*line 1 column") as caught:
        decode(body)
    assert caught.value.status == 400
    assert len(caught.value.detail) < 200
    assert "\n" not in caught.value.detail


def test_place_of_an_error() -> None:
    """The line and the column of the first error are told."""
    with pytest.raises(InvalidJson, match="line 3 column 6"):
        decode(b'{\n"a": 1,\n"b": x}')


@given(DOCUMENTS)
def test_decoder_agrees_with_the_standard_library(document: object) -> None:
    """Every JSON document is read as Python's own reader reads it, and ours come back as they were."""
    assert decode(json.dumps(document).encode()) == document
    assert decode(encode({"document": document})) == {"document": document}


@given(st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_decode_or_are_refused(body: bytes) -> None:
    """Bytes are either JSON or refused as such; nothing else is raised."""
    with suppress(InvalidJson):
        decode(body)


@pytest.mark.parametrize("number", ["18446744073709551616", "1" * 400])
def test_integers_past_64_bits(number: str) -> None:
    """An integer too long for 64 bits is still a number, or refused; it never breaks the reader."""
    try:
        assert decode(number.encode()) == float(number)
    except InvalidJson:
        assert math.isinf(float(number))


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        (Prediction([3], [0.95]), b'{"prediction":3,"confidence":0.95,"model_version":"1"}'),
        (Prediction([2.5], None), b'{"prediction":2.5,"confidence":null,"model_version":"1"}'),
        (Prediction(["é"], [1.0]), '{"prediction":"é","confidence":1.0,"model_version":"1"}'.encode()),
        (Prediction([[1, 2]], [[0.5, 1.0]]), b'{"prediction":[1,2],"confidence":[0.5,1.0],"model_version":"1"}'),
    ],
)
def test_single_prediction_has_confidence_and_version(prediction: Prediction, answer: bytes) -> None:
    """One row is answered with its prediction, its confidence or null, and the version as a string."""
    assert encode_one(prediction, "1") == answer


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        (Prediction([3], [0.95]), b'{"predictions":[3],"confidences":[0.95],"model_version":"7"}'),
        (Prediction([3, 4], None), b'{"predictions":[3,4],"confidences":[null,null],"model_version":"7"}'),
        (
            Prediction([[1], [2]], [[0.5], [1.0]]),
            b'{"predictions":[[1],[2]],"confidences":[[0.5],[1.0]],"model_version":"7"}',
        ),
    ],
)
def test_predictions_and_confidences_have_equal_length(prediction: Prediction, answer: bytes) -> None:
    """Many rows are answered with lists of one length, nulls where the model has no probabilities."""
    assert encode_many(prediction, "7") == answer


def test_error_becomes_a_problem_document() -> None:
    """An error is a problem document with its status in words."""
    assert json.loads(encode_problem(413, "too long")) == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": "too long",
    }


def test_faults_of_a_problem() -> None:
    """Each fault is listed with its place."""
    problem = json.loads(encode_problem(422, "two", [Fault("is missing", "#/slope"), Fault("is null", "#/a~1b")]))
    assert problem["errors"] == [
        {"detail": "is missing", "pointer": "#/slope"},
        {"detail": "is null", "pointer": "#/a~1b"},
    ]
