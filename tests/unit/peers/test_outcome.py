"""The check of a table of differences between two servers, and the summaries of their answers."""

from __future__ import annotations

import pytest

from tests.peers.exchange import Answer
from tests.peers.outcome import Difference, check_differences, scoring_outcome, v2_outcome

TABLE = (Difference("500", "400", "a defect there", ("crash",)),)


@pytest.mark.parametrize(
    ("outcomes", "errors"),
    [
        ({"crash": ("500", "400 BAD")}, []),
        ({"crash": ("500", "400"), "good": ("200 [1]", "200 [1]")}, []),
        (
            {"crash": ("500", "400"), "other": ("200 [1]", "200 [2]")},
            ["other: unlisted difference, theirs 200 [1], ours 200 [2]"],
        ),
        ({"crash": ("400", "400")}, ["crash: listed as different, but both are 400"]),
        ({"crash": ("500", "200")}, ["crash: listed as 500 and 400, got 500 and 200"]),
        ({}, ["crash: listed twice, or not the name of a request"]),
    ],
)
def test_differences_are_those_of_the_table(outcomes: dict[str, tuple[str, str]], errors: list[str]) -> None:
    """An unlisted difference, a listed one that is gone or has changed, and an unknown name are each an error."""
    assert check_differences(outcomes, TABLE) == errors


def test_name_listed_twice_is_an_error() -> None:
    """A request that is in two rows of the table is an error."""
    assert check_differences({"crash": ("500", "400")}, TABLE * 2) == [
        "crash: listed twice, or not the name of a request"
    ]


def test_outcomes_differ_if_predictions_or_codes_differ() -> None:
    """Outcomes contain predictions to nine digits, an error's code, and a tensor's datatype and shape."""

    def outcome(status: int, body: bytes) -> str:
        return scoring_outcome(Answer(status, "", body))

    body = b'{"predictions": [%s]}'
    assert outcome(200, body % b"0.1234567891") == outcome(200, body % b"0.1234567892")
    assert outcome(200, body % b"1") != outcome(200, body % b'"1"')
    assert outcome(400, b'{"error_code": "A"}') != outcome(400, b'{"error_code": "B"}')
    infer = b'{"model_name": "m", "outputs": [{"shape": %s, "datatype": %s, "data": [1, 2]}]}'
    flat, column, row, other_datatype = (
        v2_outcome(Answer(200, "", infer % (shape, datatype)))
        for shape, datatype in ((b"[2]", b'"A"'), (b"[2, 1]", b'"A"'), (b"[1, 2]", b'"A"'), (b"[2]", b'"B"'))
    )
    assert flat == column
    assert len({flat, row, other_datatype}) == 3
