"""The table of differences: what is missing from it, and what is in it no longer, is told."""

from __future__ import annotations

import pytest

from tests.peers.exchange import Answer
from tests.peers.outcome import Difference, of_scoring, of_v2, unlisted

TABLE = (Difference("500", "400", "a defect there", ("crash",)),)


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ({"crash": ("500", "400 BAD")}, []),
        ({"crash": ("500", "400"), "good": ("200 [1]", "200 [1]")}, []),
        ({"crash": ("500", "400"), "other": ("200 [1]", "200 [2]")}, ["other: 200 [1] there, 200 [2] here"]),
        ({"crash": ("400", "400")}, ["crash: listed as different, but it is 400 on both"]),
        ({"crash": ("500", "200")}, ["crash: listed as 500 and 400, but 500 there, 200 here"]),
        ({}, ["crash: listed twice, or no request"]),
    ],
)
def test_differences_are_those_of_the_table(outcomes: dict[str, tuple[str, str]], told: list[str]) -> None:
    """An unlisted difference, a listed one that is gone or has become another, and an unknown name are each told."""
    assert unlisted(outcomes, TABLE) == told


def test_a_name_is_listed_once() -> None:
    """The same request in two rows of the table is told."""
    assert unlisted({"crash": ("500", "400")}, TABLE * 2) == ["crash: listed twice, or no request"]


def test_outcomes_differ_where_predictions_do() -> None:
    """Predictions are part of an outcome, to nine digits; so are an error's code, and a tensor's datatype and shape."""
    body = b'{"predictions": [%s]}'
    assert of_scoring(Answer(200, "", body % b"0.1234567891")) == of_scoring(Answer(200, "", body % b"0.1234567892"))
    assert of_scoring(Answer(200, "", body % b"1")) != of_scoring(Answer(200, "", body % b'"1"'))
    assert of_scoring(Answer(400, "", b'{"error_code": "A"}')) != of_scoring(Answer(400, "", b'{"error_code": "B"}'))
    infer = b'{"model_name": "m", "outputs": [{"shape": %s, "datatype": %s, "data": [1, 2]}]}'
    one, square, wide, other = (
        of_v2(Answer(200, "", infer % (shape, kind)))
        for shape, kind in ((b"[2]", b'"A"'), (b"[2, 1]", b'"A"'), (b"[1, 2]", b'"A"'), (b"[2]", b'"B"'))
    )
    assert one == square
    assert len({one, wide, other}) == 3
