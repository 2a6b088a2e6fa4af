"""Tests of the ``pyfunc`` engine: the results that it takes from a model, and the columns that it leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from server.engines.pyfunc import PyfuncEngine
from server.errors import InvalidRows
from server.inference.rows import Prediction
from server.inference.signature import RECORDS, schema_from_signature


class FakeModel:
    """A model of MLflow whose ``predict`` is a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.predict = function


def predict(function: Callable[[Any], Any], *rows: object) -> Prediction:
    """Return the engine's prediction for rows of a model of which nothing is known."""
    schema = RECORDS
    return PyfuncEngine(FakeModel(function), schema).predict(schema.to_rows(schema.parse_values([*rows], "#", 9)))


def test_dict_of_columns_is_one_result_per_row() -> None:
    """A dict of lists or arrays, of any rank, gives one result per row and the names of the columns."""
    prediction = predict(lambda _: {"a": [1, 2], "b": np.array([[1.0, 2.0], [3.0, 4.0]])}, 0, 1)
    assert prediction.labels == [[1, [1.0, 2.0]], [2, [3.0, 4.0]]]
    assert prediction.columns == ("a", "b")


@pytest.mark.parametrize("result", [{"a": 1}, {"a": [1], "b": [1, 2]}, None, 3.5, "text"])
def test_result_without_rows_is_no_error_of_the_request(result: object) -> None:
    """A result that has no rows is a defect of the model, which the trial refuses, and not one of the request."""
    with pytest.raises(RuntimeError, match="expected one result per row"):
        predict(lambda _: result, 0)


def test_missing_optional_values_are_passed_on() -> None:
    """Optional columns without a value stay in the DataFrame, except whole numbers and booleans, as MLflow demands."""
    types = ("double", "string", "datetime", "long", "boolean")
    schema = schema_from_signature([{"name": name, "type": name, "required": False} for name in types], {})
    seen: list[pd.DataFrame] = []

    def note(frame: pd.DataFrame) -> list[int]:
        seen.append(frame)
        return [0]

    engine = PyfuncEngine(FakeModel(note), schema)
    engine.predict(schema.to_rows([[None] * 5]))
    assert list(seen[0]) == ["double", "string", "datetime"]
    assert len(seen[0]) == 1


def test_row_without_any_value_is_refused() -> None:
    """A row of optional whole numbers without a value is refused: MLflow would call the model without a row."""
    schema = schema_from_signature([{"name": "n", "type": "long", "required": False}], {})
    with pytest.raises(InvalidRows, match="must have a value for one of n"):
        PyfuncEngine(FakeModel(list), schema).predict(schema.to_rows([[None]]))
