"""Decoding and encoding of JSON."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Fault, InvalidJson
from server.inference.rows import Prediction
from server.protocols.json_codec import decode, encode, encode_prediction, encode_predictions, encode_problem

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
    """A body that is not one JSON document in UTF-8 is a 400 with the position of the error, in one short line."""
    with pytest.raises(InvalidJson, match=r"^the body is not JSON: .*line 1 column") as caught:
        decode(body)
    assert caught.value.status == 400
    assert len(caught.value.detail) < 200
    assert "\n" not in caught.value.detail


def test_invalid_json_error_counts_lines_and_columns() -> None:
    """The error has the line and the column of the first invalid character."""
    with pytest.raises(InvalidJson, match="line 3 column 6"):
        decode(b'{\n"a": 1,\n"b": x}')


@given(DOCUMENTS)
def test_decoder_agrees_with_the_standard_library(document: object) -> None:
    """A document is decoded as the json module decodes it, and an encoded document decodes to itself."""
    assert decode(json.dumps(document).encode()) == document
    assert decode(encode({"document": document})) == {"document": document}


@given(st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_decode_or_are_refused(body: bytes) -> None:
    """Arbitrary bytes are decoded, or raise InvalidJson and nothing else."""
    with suppress(InvalidJson):
        decode(body)


@pytest.mark.parametrize("number", ["18446744073709551616", "1" * 400])
def test_integer_beyond_64_bits_becomes_a_float_or_is_rejected(number: str) -> None:
    """An integer beyond 64 bits is decoded as a float, or rejected if no float can hold it."""
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
        (
            Prediction([{"a": b"hi", 1: None}], None),
            b'{"prediction":{"a":"aGk=","1":null},"confidence":null,"model_version":"1"}',
        ),
        (
            Prediction([datetime(2024, 1, 31)], None),
            b'{"prediction":"2024-01-31T00:00:00","confidence":null,"model_version":"1"}',
        ),
        (Prediction([np.float32(0.5)], None), b'{"prediction":0.5,"confidence":null,"model_version":"1"}'),
        (Prediction([[1, 2]], [[0.5, 1.0]]), b'{"prediction":[1,2],"confidence":[0.5,1.0],"model_version":"1"}'),
    ],
)
def test_single_prediction_has_confidence_and_version(prediction: Prediction, answer: bytes) -> None:
    """The response for one row has the prediction, the confidence or null, and the version as a string."""
    assert encode_prediction(prediction, "1") == answer


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
    """The response for many rows has lists of equal length, with nulls if the model has no probabilities."""
    assert encode_predictions(prediction, "7") == answer


def test_error_becomes_a_problem_document() -> None:
    """A problem document has the name of its status as its title."""
    assert json.loads(encode_problem(413, "too long")) == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": "too long",
    }


def test_problem_document_lists_faults_with_pointers() -> None:
    """Each fault of a problem document has its detail and its pointer."""
    problem = json.loads(encode_problem(422, "two", [Fault("is missing", "#/slope"), Fault("is null", "#/a~1b")]))
    assert problem["errors"] == [
        {"detail": "is missing", "pointer": "#/slope"},
        {"detail": "is null", "pointer": "#/a~1b"},
    ]
