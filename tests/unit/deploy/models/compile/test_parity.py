"""When a compiled model may stand in for the one that it was made from."""

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
class Fixed:
    """An engine of either kind, which answers its rows by their number."""

    values: Floats
    labels: list[Any]

    name = "fixed"
    uses_pandas = False

    def predict(self, rows: Rows) -> Prediction:
        places = rows.numbers[:, 0].astype(int)
        return Prediction([self.labels[place] for place in places], None)

    def totals(self, rows: Rows) -> Floats:
        values: Floats = self.values[rows.numbers[:, 0].astype(int)]
        return values


def reference(values: Any, labels: list[Any]) -> SklearnEngine:
    return Fixed(np.asarray(values, np.float64), labels)  # type: ignore[return-value]


def checked(expected: Any, found: Any, labels: list[Any], others: list[Any] | None = None) -> Check:
    """What comparing two models of so many rows finds."""
    compiled = Fixed(np.asarray(found, np.float64), labels if others is None else others)
    return compare(reference(expected, labels), compiled, numeric_rows([[i] for i in range(len(labels))]), "rows")


CLEAR = [[0.7, 0.3], [0.2, 0.8], [1.0, 0.0]]
LABELS = ["a", "b", "a"]


def test_model_agrees_with_itself() -> None:
    """A model that agrees with itself passes, with nothing to tell."""
    assert checked(CLEAR, CLEAR, LABELS) == Check("rows", 3, 0, 0, 0.0)
    assert checked(CLEAR, CLEAR, LABELS).passed


def test_different_label_fails_the_check() -> None:
    """One other label fails the check, however close the probabilities are."""
    check = checked(CLEAR, CLEAR, LABELS, ["a", "a", "a"])
    assert (check.labels_differ, check.ties, check.largest_difference) == (1, 0, 0.0)
    assert not check.passed


@pytest.mark.parametrize("others", [["1", "2", "1"], [1.0, 2.0, 1.0], [True, 2, True], [np.int64(1), 2, 1]])
def test_label_of_another_type(others: list[Any]) -> None:
    """A label that JSON would show in another way is another label."""
    assert checked(CLEAR, CLEAR, [1, 2, 1], others).labels_differ > 0


@pytest.mark.parametrize("apart", [0.0, TOLERANCE / 2])
def test_ties_accept_either_label_and_are_counted(apart: float) -> None:
    """Where two classes are as good as equally likely, either label will do; such rows are counted."""
    tied = [[0.5 + apart, 0.5], *CLEAR[1:]]
    check = checked(tied, tied, LABELS, ["b", "b", "a"])
    assert (check.labels_differ, check.ties) == (0, 1)
    assert check.passed


def test_only_ties_for_first_place_count() -> None:
    """Two classes that tie, but not for the first place, are no tie, and three for the first are one."""
    check = checked([[0.6, 0.2, 0.2], [1 / 3] * 3], [[0.6, 0.2, 0.2], [1 / 3] * 3], ["a", "b"], ["b", "c"])
    assert (check.labels_differ, check.ties) == (1, 1)


def test_near_tie_requires_the_likelier_label() -> None:
    """Where one class is likelier by more than the tolerance, its label is the only good one."""
    near = [[0.5 + 2 * TOLERANCE, 0.5], *CLEAR[1:]]
    assert checked(near, near, LABELS, ["b", "b", "a"]).labels_differ == 1


@pytest.mark.parametrize(("apart", "passes"), [(1e-9, True), (0.9e-6, True), (1.1e-6, False), (0.1, False)])
def test_probability_difference_above_tolerance_fails(apart: float, passes: bool) -> None:
    """Any probability that differs by more than a millionth fails the check, whatever the label."""
    found = np.array(CLEAR)
    found[1] += [-apart, apart]
    check = checked(CLEAR, found, LABELS)
    assert check.labels_differ == 0
    assert check.largest_difference == pytest.approx(apart)
    assert check.passed is passes


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        (0.0, 1e-7, 1e-7),
        (1.0, 1.5, 0.5),
        (-1e9, -1e9 + 100, 1e-7),
        (1e9, 1e9 + 1e5, 1e-4),
        (1e-9, 2e-9, 1e-9),
    ],
)
def test_regression_difference_is_relative_above_one(expected: float, found: float, difference: float) -> None:
    """A regressor's values differ by a part of their size, where that is above one."""
    check = checked([[3.0], [expected]], [[3.0], [found]], [3.0, expected])
    assert check.largest_difference == pytest.approx(difference)
    assert check.passed is (difference <= TOLERANCE)
    assert (check.labels_differ, check.ties) == (0, 0)


@pytest.mark.parametrize("place", [0, 5000, 9999])
@pytest.mark.parametrize("outputs", [1, 2])
def test_nan_prediction_fails_the_check(place: int, outputs: int) -> None:
    """A compiled model that gives NaN for one row of many does not pass."""
    expected = np.full((10_000, outputs), 1 / outputs)
    found = expected.copy()
    found[place] = np.nan
    assert not checked(expected, found, ["a"] * 10_000).passed


def test_one_bad_row_of_many() -> None:
    """Of more rows than are compared at once, each counts: labels, ties and the largest difference."""
    expected = np.tile([0.9, 0.1], (10_000, 1))
    found, others = expected.copy(), ["a"] * 10_000
    expected[[17, 9000]] = found[[17, 9000]] = 0.5
    others[4095] = others[4096] = others[9999] = others[9000] = "b"
    found[6000] += [1e-3, -1e-3]
    found[9999] += [1e-4, -1e-4]
    check = checked(expected, found, ["a"] * 10_000, others)
    assert (check.rows, check.labels_differ, check.ties) == (10_000, 3, 2)
    assert check.largest_difference == pytest.approx(1e-3)


def test_comparison_of_no_rows_fails() -> None:
    """A comparison of nothing shows nothing."""
    assert not checked(np.empty((0, 2)), np.empty((0, 2)), []).passed


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
    """A check is passed by labels, differences and rows; ties do not matter."""
    check = replace(GOOD, **change)
    assert check.passed is passes
    assert check.to_json()["passed"] is passes


def test_check_serializes_to_json_with_tolerance() -> None:
    """A check is recorded as plain values, with the tolerance that it had."""
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
    """A check tells its rows, where they are from, and what it found, in one line."""
    assert str(GOOD) == "2,000 rows (held-out rows): equal labels, values at most 1.0e-09 apart"
    assert ": 5 other labels, " in str(replace(GOOD, labels_differ=5))


def test_real_comparison_is_json_serializable() -> None:
    """What a comparison of real models finds can be written as JSON."""
    check = comparison(DecisionTreeClassifier(max_depth=2))
    assert json.loads(json.dumps(check.to_json()))["passed"] is True


X: Floats = np.random.default_rng(0).normal(size=(5000, 3))
Y = np.digitize(X.sum(axis=1), [-1, 1])


def comparison(model: Any, other: Any = None) -> Check:
    """A model compared with the packed form of another, or of its own."""
    fitted = model.fit(X[:300], Y[:300])
    packed = pack(fitted if other is None else other.fit(X[:300], Y[:300]), double_columns(3))
    return compare(
        SklearnEngine(fitted, double_columns(3)), engine_of(packed, double_columns(3)), numeric_rows(X), "rows"
    )


@pytest.mark.parametrize("model", [RandomForestClassifier(5, random_state=0), RandomForestRegressor(5)])
def test_packed_forest_equals_its_model(model: Any) -> None:
    """A packed forest does not differ from its own model at all."""
    check = comparison(model)
    assert (check.rows, check.labels_differ, check.largest_difference) == (5000, 0, 0.0)


@pytest.mark.parametrize(
    ("model", "other"),
    [
        (RandomForestClassifier(5, random_state=0), RandomForestClassifier(5, random_state=1)),
        (RandomForestRegressor(5, random_state=0), RandomForestRegressor(5, random_state=1)),
        (DecisionTreeClassifier(random_state=0), DecisionTreeClassifier(max_depth=4, random_state=0)),
    ],
)
def test_packed_form_of_another_forest_fails(model: Any, other: Any) -> None:
    """The packed form of another forest of the same data is found out."""
    assert not comparison(model, other).passed
