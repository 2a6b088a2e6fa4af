"""Tests of options of requests in a worker's queue, and of rows that the model itself refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from server.errors import Fault, InvalidRows, SchemaMismatch
from server.inference.batcher import Batcher, CallCost
from server.inference.rows import ClassProbabilities, Options, Prediction, Row
from server.inference.signature import schema_from_signature, schema_of_names
from tests.support.models.served_models import served_model

TIMEOUT_SECONDS = 20  # a test that hangs fails after this time
COSTS = pytest.mark.parametrize("cost", [CallCost(0.0, 0.0), CallCost(float("inf"), 0.0)], ids=["loop", "thread"])
REFUSED = -1
TYPED = schema_from_signature([{"name": "x", "type": "double"}], {})


class Recorder:
    """A model that returns the options of the call for each row, and refuses the first row that is REFUSED."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Any], tuple[Any, ...]]] = []

    def predict(self, rows: Sequence[Row], *options: Options) -> Prediction:
        values = [row[0] for row in rows]
        self.calls.append((values, options))
        if REFUSED in values:
            raise InvalidRows("refused", [Fault("refused", "#")], values.index(REFUSED))
        probabilities = ClassProbabilities(("no", "yes"), np.array([[0.0, value] for value in values]))
        return Prediction(values, None, None, (probabilities,) if options and options[0].probabilities else None)


def answers(
    model: Recorder, cost: CallCost, requests: list[tuple[list[Any], Options | None]], max_batch_rows: int = 8
) -> list[Prediction | BaseException]:
    """Submit requests in one turn of an event loop, and return their predictions or errors."""

    async def main() -> list[Prediction | BaseException]:
        with ThreadPoolExecutor(max_workers=1) as executor:
            batcher = Batcher(model.predict, executor, max_batch_rows=max_batch_rows, max_pending=100)
            batcher._cost = cost
            waiting = [batcher.submit([[value] for value in values], options) for values, options in requests]
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(main())


@COSTS
def test_only_requests_with_equal_options_share_a_call(cost: CallCost) -> None:
    """Neighbours in the queue share a call if their options are equal, and each call gets its requests' options."""
    model, hot, cold = Recorder(), Options(params=(("t", 2.0),)), Options(params=(("t", 1.0),))
    equal_to_hot = Options(params=(("t", 2.0),))
    requests = [([1], None), ([2], None), ([3], hot), ([4], equal_to_hot), ([5], cold), ([6], hot), ([7], None)]
    predictions = answers(model, cost, requests)
    assert [prediction.labels for prediction in predictions if isinstance(prediction, Prediction)] == [
        [value] for value in range(1, 8)
    ]
    assert model.calls == [([1, 2], ()), ([3, 4], (hot,)), ([5], (cold,)), ([6], (hot,)), ([7], ())]


@COSTS
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Options(probabilities=True), None),
        (Options(probabilities=True), Options(probabilities=True, params=(("t", 1),))),
        (Options(params=(("t", [1]),)), Options(params=(("t", [2]),))),
        (Options(value_kinds=("number",)), Options(value_kinds=("str",))),
    ],
)
def test_any_different_option_separates_calls(cost: CallCost, first: Options, second: Options | None) -> None:
    """Probabilities, parameters and kinds of values each keep requests out of each other's call."""
    model = Recorder()
    answers(model, cost, [([1], first), ([2], second), ([3], first), ([4], first)])
    assert [values for values, _ in model.calls] == [[1], [2], [3, 4]]


@COSTS
def test_probabilities_are_divided_among_requests(cost: CallCost) -> None:
    """Requests that share a call, or that need several, get the probabilities of their own rows."""
    model, options = Recorder(), Options(probabilities=True)
    for max_batch_rows in (8, 2):
        first, second = answers(model, cost, [([0.1, 0.2, 0.3], options), ([0.4], options)], max_batch_rows)
        assert isinstance(first, Prediction)
        assert isinstance(second, Prediction)
        ((classes, values),) = first.probabilities or ()
        assert (classes, values.tolist()) == (("no", "yes"), [[0, 0.1], [0, 0.2], [0, 0.3]])
        assert [output.values.tolist() for output in second.probabilities or ()] == [[[0, 0.4]]]


@COSTS
def test_only_the_request_with_a_refused_row_fails(cost: CallCost) -> None:
    """A row that the model refuses fails only its own request, with its index in that request."""
    model, options = Recorder(), Options(params=(("t", 1),))
    first, refused, last = answers(model, cost, [([1, 2], options), ([3, REFUSED], options), ([4], options)])
    assert [getattr(answer, "labels", None) for answer in (first, last)] == [[1, 2], [4]]
    assert isinstance(refused, InvalidRows)
    assert refused.row == 1
    assert model.calls == [(values, (options,)) for values in ([1, 2, 3, REFUSED, 4], [1, 2], [3, REFUSED], [4])]


@COSTS
@pytest.mark.parametrize("index", range(7))
def test_refused_row_of_a_large_request_keeps_its_index(cost: CallCost, index: int) -> None:
    """A refused row of a request that needs several calls has its index in the request, not that in the call."""
    values = list(range(7))
    values[index] = REFUSED
    (error,) = answers(Recorder(), cost, [(values, None)], max_batch_rows=3)
    assert isinstance(error, InvalidRows)
    assert (error.row, error.detail) == (index, "refused")


def test_moved_error_keeps_its_type_and_faults() -> None:
    """An error that is moved by the rows before it keeps its type, its faults, and an unknown row."""
    error = SchemaMismatch("refused", [Fault("refused", "#")], 2)
    moved = error.moved(3)
    assert (type(moved), moved.detail, moved.faults, moved.row) == (SchemaMismatch, "refused", error.faults, 5)
    assert InvalidRows("refused").moved(3).row is None


def test_parts_without_probabilities_give_none() -> None:
    """Predictions of which one has no probabilities have none together; with them, each output is joined."""
    output = ClassProbabilities((0, 1), np.array([[0.25, 0.75]]))
    with_two, without = Prediction([1], [0.75], None, (output, output)), Prediction([1], [0.75])
    assert Prediction.concatenate([with_two, without]).probabilities is None
    joined = Prediction.concatenate([with_two, with_two]).probabilities
    assert joined is not None
    assert [(classes, values.tolist()) for classes, values in joined] == [((0, 1), [[0.25, 0.75]] * 2)] * 2


def test_plain_request_to_a_typed_model_has_no_options() -> None:
    """A request without parameters and probabilities has no options if the model's columns have types."""
    model = served_model(None, schema=TYPED, example={"x": 1.0})
    assert model.options([[1.0]]) is None
    assert model.options([[1.0]], probabilities=True) == Options(probabilities=True)
    assert model.options([[1.0]], params=(("t", 1),)) == Options(params=(("t", 1),))


def test_request_to_an_untyped_model_has_the_kinds_of_its_values() -> None:
    """A request to a model without types has the kinds of its values, so that numbers and text are not mixed."""
    model = served_model(None, schema=schema_of_names(["x"]), example={"x": 1.0})
    number, text = model.options([[1], [2.5]]), model.options([["a"]])
    assert number is not None
    assert number == model.options([[3]])
    assert number != text
