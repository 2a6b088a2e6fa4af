"""Tests of the comparison of a compiled model with the model that it was made from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.tree import DecisionTreeClassifier

from deploy.models.compile.packing import pack
from deploy.models.compile.parity import TOLERANCE, Check, compare
from server.engines.sklearn import SklearnEngine
from server.inference.rows import Prediction, Rows
from tests.support.models.forests import Floats, double_columns, engine_of, numeric_rows

GOOD = Check("held-out rows", 2000, 0, 3, 1e-9)


@dataclass
class FixedEngine:
    """An engine with fixed results, which a row selects by its index in its only column."""

    values: Floats
    labels: list[Any]

    name = "fixed"
    uses_pandas = False

    def predict(self, rows: Rows) -> Prediction:
        indices = rows.numbers[:, 0].astype(int)
        return Prediction([self.labels[index] for index in indices], None)

    def outputs(self, rows: Rows) -> Floats:
        values: Floats = self.values[rows.numbers[:, 0].astype(int)]
        return values


def reference(values: Any, labels: list[Any]) -> SklearnEngine:
    return FixedEngine(np.asarray(values, np.float64), labels)  # type: ignore[return-value]


def check_of(expected: Any, actual: Any, labels: list[Any], actual_labels: list[Any] | None = None) -> Check:
    """Compare a model with these values and labels with a compiled form that has the actual ones."""
    compiled = FixedEngine(np.asarray(actual, np.float64), labels if actual_labels is None else actual_labels)
    return compare(reference(expected, labels), compiled, numeric_rows([[i] for i in range(len(labels))]), "rows")


CLEAR = [[0.7, 0.3], [0.2, 0.8], [1.0, 0.0]]
LABELS = ["a", "b", "a"]


def test_model_agrees_with_itself() -> None:
    """A compiled form with equal results passes with a difference of zero."""
    assert check_of(CLEAR, CLEAR, LABELS) == Check("rows", 3, 0, 0, 0.0)
    assert check_of(CLEAR, CLEAR, LABELS).passed


def test_different_label_fails_the_check() -> None:
    """One different label fails the check, even if all probabilities are equal."""
    check = check_of(CLEAR, CLEAR, LABELS, ["a", "a", "a"])
    assert (check.labels_differ, check.ties, check.largest_difference) == (1, 0, 0.0)
    assert not check.passed


@pytest.mark.parametrize("actual_labels", [["1", "2", "1"], [1.0, 2.0, 1.0], [True, 2, True], [np.int64(1), 2, 1]])
def test_label_of_another_type_is_different(actual_labels: list[Any]) -> None:
    """A label that is equal but of another type counts as different, because its JSON form may differ."""
    assert check_of(CLEAR, CLEAR, [1, 2, 1], actual_labels).labels_differ > 0


@pytest.mark.parametrize("apart", [0.0, TOLERANCE / 2])
def test_ties_accept_either_label_and_are_counted(apart: float) -> None:
    """If two classes are equally likely within the tolerance, either label passes, and the row counts as a tie."""
    tied = [[0.5 + apart, 0.5], *CLEAR[1:]]
    check = check_of(tied, tied, LABELS, ["b", "b", "a"])
    assert (check.labels_differ, check.ties) == (0, 1)
    assert check.passed


def test_only_ties_for_first_place_count() -> None:
    """A tie between less likely classes does not count, and a tie of three most likely classes counts once."""
    check = check_of([[0.6, 0.2, 0.2], [1 / 3] * 3], [[0.6, 0.2, 0.2], [1 / 3] * 3], ["a", "b"], ["b", "c"])
    assert (check.labels_differ, check.ties) == (1, 1)


def test_near_tie_requires_the_likelier_label() -> None:
    """If one class is likelier by more than the tolerance, only its label passes."""
    near = [[0.5 + 2 * TOLERANCE, 0.5], *CLEAR[1:]]
    assert check_of(near, near, LABELS, ["b", "b", "a"]).labels_differ == 1


@pytest.mark.parametrize(("apart", "passes"), [(1e-9, True), (0.9e-6, True), (1.1e-6, False), (0.1, False)])
def test_probability_difference_above_tolerance_fails(apart: float, passes: bool) -> None:
    """A probability that differs by more than a millionth fails the check, even if all labels are equal."""
    actual = np.array(CLEAR)
    actual[1] += [-apart, apart]
    check = check_of(CLEAR, actual, LABELS)
    assert check.labels_differ == 0
    assert check.largest_difference == pytest.approx(apart)
    assert check.passed is passes


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        (0.0, 1e-7, 1e-7),
        (1.0, 1.5, 0.5),
        (-1e9, -1e9 + 100, 1e-7),
        (1e9, 1e9 + 1e5, 1e-4),
        (1e-9, 2e-9, 1e-9),
    ],
)
def test_regression_difference_is_relative_above_one(expected: float, actual: float, difference: float) -> None:
    """The difference of a regressor's values is relative to the value if that is above one, else absolute."""
    check = check_of([[3.0], [expected]], [[3.0], [actual]], [3.0, expected])
    assert check.largest_difference == pytest.approx(difference)
    assert check.passed is (difference <= TOLERANCE)
    assert (check.labels_differ, check.ties) == (0, 0)


@pytest.mark.parametrize("index", [0, 5000, 9999])
@pytest.mark.parametrize("outputs", [1, 2])
def test_nan_prediction_fails_the_check(index: int, outputs: int) -> None:
    """NaN in one row of 10,000 fails the check."""
    expected = np.full((10_000, outputs), 1 / outputs)
    actual = expected.copy()
    actual[index] = np.nan
    assert not check_of(expected, actual, ["a"] * 10_000).passed


def test_results_of_all_chunks_are_added() -> None:
    """Labels, ties and the largest difference are counted over all chunks of rows that are compared at once."""
    expected = np.tile([0.9, 0.1], (10_000, 1))
    actual, actual_labels = expected.copy(), ["a"] * 10_000
    expected[[17, 9000]] = actual[[17, 9000]] = 0.5
    for index in (4095, 4096, 9999, 9000):
        actual_labels[index] = "b"
    actual[6000] += [1e-3, -1e-3]
    actual[9999] += [1e-4, -1e-4]
    check = check_of(expected, actual, ["a"] * 10_000, actual_labels)
    assert (check.rows, check.labels_differ, check.ties) == (10_000, 3, 2)
    assert check.largest_difference == pytest.approx(1e-3)


def test_comparison_of_no_rows_fails() -> None:
    """A comparison without rows does not pass."""
    assert not check_of(np.empty((0, 2)), np.empty((0, 2)), []).passed


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ({}, True),
        ({"largest_difference": TOLERANCE}, True),
        ({"largest_difference": float(np.nextafter(TOLERANCE, 1))}, False),
        ({"largest_difference": float("nan")}, False),
        ({"labels_differ": 1}, False),
        ({"ties": 2000}, True),
        ({"rows": 0}, False),
    ],
)
def test_check_depends_on_labels_differences_and_rows(change: dict[str, Any], passes: bool) -> None:
    """A check passes with rows, equal labels and a difference within the tolerance, whatever the number of ties."""
    check = replace(GOOD, **change)
    assert check.passed is passes
    assert check.to_json()["passed"] is passes


def test_check_serializes_to_json_with_tolerance() -> None:
    """A check is recorded as plain JSON values, with the tolerance and the result."""
    assert json.loads(json.dumps(GOOD.to_json())) == {
        "against": "held-out rows",
        "rows": 2000,
        "labels_differ": 0,
        "ties": 3,
        "largest_difference": 1e-9,
        "tolerance": 1e-6,
        "passed": True,
    }


def test_check_text_states_rows_origin_and_result() -> None:
    """The text of a check has the number of rows, their source and the differences."""
    assert str(GOOD) == "2,000 rows (held-out rows): equal labels, values at most 1.0e-09 apart"
    assert ": 5 different labels, " in str(replace(GOOD, labels_differ=5))


def test_real_comparison_is_json_serializable() -> None:
    """The check of two real models can be written as JSON."""
    check = comparison(DecisionTreeClassifier(max_depth=2))
    assert json.loads(json.dumps(check.to_json()))["passed"] is True


X: Floats = np.random.default_rng(0).normal(size=(5000, 3))
Y = np.digitize(X.sum(axis=1), [-1, 1])


def comparison(model: Any, packed_model: Any = None) -> Check:
    """Compare a model with the packed form of another model or, without one, of itself."""
    fitted = model.fit(X[:300], Y[:300])
    packed = pack(fitted if packed_model is None else packed_model.fit(X[:300], Y[:300]), double_columns(3))
    return compare(
        SklearnEngine(fitted, double_columns(3)), engine_of(packed, double_columns(3)), numeric_rows(X), "rows"
    )


@pytest.mark.parametrize("model", [RandomForestClassifier(5, random_state=0), RandomForestRegressor(5)])
def test_packed_forest_equals_its_model(model: Any) -> None:
    """A packed forest has exactly the results of its model."""
    check = comparison(model)
    assert (check.rows, check.labels_differ, check.largest_difference) == (5000, 0, 0.0)


@pytest.mark.parametrize(
    ("model", "packed_model"),
    [
        (RandomForestClassifier(5, random_state=0), RandomForestClassifier(5, random_state=1)),
        (RandomForestRegressor(5, random_state=0), RandomForestRegressor(5, random_state=1)),
        (DecisionTreeClassifier(random_state=0), DecisionTreeClassifier(max_depth=4, random_state=0)),
    ],
)
def test_packed_form_of_another_forest_fails(model: Any, packed_model: Any) -> None:
    """The packed form of another forest that was fitted on the same rows fails the check."""
    assert not comparison(model, packed_model).passed
