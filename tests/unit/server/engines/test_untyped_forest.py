"""Tests of a packed forest whose columns have no types: it reads JSON values as the fitted estimator does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deploy.models.compile.packing import pack
from server.engines.forest import ForestEngine
from server.engines.sklearn import SklearnEngine
from server.errors import InvalidRows
from server.inference.rows import Rows
from server.inference.schema import InputSchema
from server.inference.signature import schema_of_estimator
from tests.support.models.forests import engine_of

X = np.random.default_rng(0).normal(size=(60, 2))
LABELS = np.digitize(X.sum(axis=1), [-0.5, 0.5])
SOIL = pd.DataFrame(
    {
        "zone": np.arange(60) % 4 + 1,
        "soil": np.array(["clay", "sand", "1"] * 20, dtype=object),
        "depth": X[:, 0],
        "note": np.array(["unused"] * 60, dtype=object),
    }
)


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(5, random_state=0)


def one_hot(**options: Any) -> Pipeline:
    columns = [("hot", OneHotEncoder(**options), ["zone", "soil"]), ("note", "drop", ["note"])]
    return make_pipeline(ColumnTransformer(columns, remainder="passthrough"), forest()).fit(SOIL, LABELS)


NUMERIC = {
    "array": forest().fit(X, LABELS),
    "frame": forest().fit(pd.DataFrame(X, columns=["x0", "x1"]), LABELS),
    "scaled": make_pipeline(StandardScaler(), forest()).fit(X, LABELS),
}
KNOWN, IGNORING = one_hot(), one_hot(handle_unknown="ignore")


def engines_of(estimator: Any) -> tuple[InputSchema, SklearnEngine, ForestEngine]:
    schema = schema_of_estimator(estimator)
    return schema, SklearnEngine(estimator, schema), engine_of(pack(estimator, schema), schema)


def rows_of(schema: InputSchema, *rows: list[object]) -> Rows:
    return schema.to_rows(schema.parse({"instances": list(rows)}, 99).values)


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize(
    "row", [[0.5, 1], ["0.5", 1], ["0.5", "-1e-3"], [True, False], [" 1 ", 1], [2**70, -1], ["1_0", 1]], ids=str
)
def test_number_is_read_as_scikit_learn_reads_it(name: str, row: list[object]) -> None:
    """Numbers, texts of numbers and booleans give the bits that the estimator gives for them."""
    schema, reference, compiled = engines_of(NUMERIC[name])
    rows = rows_of(schema, row)
    assert compiled.outputs(rows).tobytes() == reference.outputs(rows).tobytes()


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("tall", 'x0 must be a number, got "tall"'),
        ("", 'x0 must be a number, got ""'),
        ("0x1", 'x0 must be a number, got "0x1"'),
        ([1], "x0 must be a number, got a list of 1"),
        ({}, "x0 must be a number, got an object"),
        (None, "x0 must be a number, got null"),
        ("nan", "x0 must be a number, got null"),
        (1e39, "x0 is too large for the model, whose trees compare 32-bit numbers"),
        ("-inf", "x0 is too large for the model, whose trees compare 32-bit numbers"),
    ],
)
def test_value_that_is_no_number_is_refused_with_its_row(name: str, value: object, detail: str) -> None:
    """A value that the trees cannot compare is an error of the request with its row and column."""
    schema, _, compiled = engines_of(NUMERIC[name])
    with pytest.raises(InvalidRows) as caught:
        compiled.predict(rows_of(schema, [1, 2], [1, 2], [value, 2], [value, 2]))
    assert (caught.value.detail, caught.value.row, caught.value.status) == (detail, 2, 422)


def test_null_before_a_text_is_not_blamed() -> None:
    """The error for a text names its own row, although a row before it has a null, which is looked at later."""
    schema, _, compiled = engines_of(NUMERIC["array"])
    with pytest.raises(InvalidRows) as caught:
        compiled.predict(rows_of(schema, [None, 2], ["tall", 2]))
    assert (caught.value.detail, caught.value.row) == ('x0 must be a number, got "tall"', 1)


@pytest.mark.parametrize("estimator", [KNOWN, IGNORING], ids=["known", "ignoring"])
@pytest.mark.parametrize(
    "row",
    [
        [1, "clay", 0.5, "x"],
        [1.0, "sand", "0.5", None],
        [True, "1", True, [1]],
        [4, "clay", -1, {}],
    ],
    ids=str,
)
def test_known_categories_match_scikit_learn(estimator: Any, row: list[object]) -> None:
    """Categories are equal to numbers and texts as the encoder has them; a column that no step uses takes any value."""
    schema, reference, compiled = engines_of(estimator)
    rows = rows_of(schema, row)
    assert compiled.outputs(rows).tobytes() == reference.outputs(rows).tobytes()


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ([9, "clay", 0.5, ""], "zone must be one of the 4 values that the model was fitted on, got 9"),
        (["1", "clay", 0.5, ""], "zone must be one of the 4 values that the model was fitted on, got 1"),
        (["x", "clay", 0.5, ""], "zone must be one of the 4 values that the model was fitted on, got x"),
        ([None, "clay", 0.5, ""], "zone must be one of the 4 values that the model was fitted on, got None"),
        ([1, "peat", 0.5, ""], "soil must be one of the 3 values that the model was fitted on, got peat"),
        ([1, 1, 0.5, ""], "soil must be one of the 3 values that the model was fitted on, got 1"),
        ([1, None, 0.5, ""], "soil must be one of the 3 values that the model was fitted on, got None"),
        ([[1], "clay", 0.5, ""], "zone must be a number, got a list of 1"),
        ([1, ["clay"], 0.5, ""], "soil must be a string, got a list of 1"),
        ([1, {"a": 1}, 0.5, ""], "soil must be a string, got an object"),
        ([1, "clay", "deep", ""], 'depth must be a number, got "deep"'),
        ([1, "clay", None, ""], "depth must be a number, got null"),
        ([1, "clay", 1e39, ""], "depth is too large for the model, whose trees compare 32-bit numbers"),
    ],
)
def test_unknown_category_is_refused_with_its_row(row: list[object], detail: str) -> None:
    """A category that the encoder does not know is an error with its row, also a text where it has numbers."""
    schema, _, compiled = engines_of(KNOWN)
    with pytest.raises(InvalidRows) as caught:
        compiled.predict(rows_of(schema, [1, "clay", 0.5, ""], row))
    assert (caught.value.detail, caught.value.row) == (detail, 1)


@pytest.mark.parametrize(
    "row", [["1", "clay"], ["x", "clay"], [None, "clay"], [9, "clay"], [2.5, "1"], [1, "peat"], [1, None]], ids=str
)
def test_ignored_category_matches_scikit_learn(row: list[object]) -> None:
    """A category that the encoder ignores gives the estimator's bits: the text of a number is not its number."""
    schema, reference, compiled = engines_of(IGNORING)
    rows = rows_of(schema, [*row, 0.5, ""])
    assert compiled.outputs(rows).tobytes() == reference.outputs(rows).tobytes()


@pytest.mark.parametrize(
    ("depth", "detail"), [(None, "depth must be a number, got null"), (1e39, "depth is too large for")]
)
def test_ignored_category_is_not_blamed(depth: object, detail: str) -> None:
    """The error for a number does not name a column whose unknown category is ignored."""
    schema, _, compiled = engines_of(IGNORING)
    with pytest.raises(InvalidRows, match=detail):
        compiled.predict(rows_of(schema, ["x", "peat", depth, ""]))


def test_forest_knows_a_category_of_each_column() -> None:
    """The values that an example is made from are the first category of each column, in the column's own type."""
    _, _, compiled = engines_of(KNOWN)
    assert compiled.known_values() == {"zone": 1, "soil": "1"}
    rows = rows_of(compiled.schema, [1, "1", 0.0, ""])
    assert len(compiled.predict(rows).labels) == 1
