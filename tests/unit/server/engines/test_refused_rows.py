"""Tests of which errors of a model are errors of the request, and of the row and the column that they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from server.engines.refused_rows import translated_row_errors
from server.errors import InvalidRows
from server.inference.rows import Rows
from server.inference.schema import InputSchema
from server.inference.signature import schema_from_signature, schema_of_names

TYPED = schema_from_signature([{"name": "x", "type": "double"}, {"name": "s", "type": "string"}], {})
UNTYPED = schema_of_names(["x", "s"])
TENSOR = schema_from_signature(
    [{"name": "image", "type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}], {}
)
RAGGED = schema_from_signature(
    [{"name": "image", "type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, -1]}}], {}
)
CONTAINS_NAN = ValueError("Input X contains NaN.\nSomeone accepts missing values natively.")
NOT_A_NUMBER = ValueError("could not convert string to float: 'tall'")


class MlflowException(Exception):
    """An exception with the name of MLflow's."""


def rows_of(schema: InputSchema, *rows: object) -> Rows:
    return schema.to_rows(schema.lenient().parse_values(list(rows), "#", 9))


def refusal(error: Exception, schema: InputSchema, rows: Rows, **options: Any) -> InvalidRows:
    with pytest.raises(InvalidRows) as caught, translated_row_errors(rows, schema, **options):
        raise error
    assert caught.value.status == 422
    assert caught.value.__cause__ is error
    assert [(fault.detail, fault.pointer) for fault in caught.value.faults] == [(caught.value.detail, "#")]
    return caught.value


@pytest.mark.parametrize(
    ("error", "schema", "rows", "row", "detail"),
    [
        (
            NOT_A_NUMBER,
            UNTYPED,
            [[1, "a"], [2, "tall"]],
            1,
            "the value of \"s\": could not convert string to float: 'tall'",
        ),
        (
            ValueError('could not convert string to float: "it\'s"'),
            UNTYPED,
            [["it's", 1]],
            0,
            'the value of "x": could',
        ),
        (
            ValueError("could not convert string to float: np.str_('tall')"),
            UNTYPED,
            [["tall", 1]],
            0,
            'the value of "x"',
        ),
        (
            ValueError("could not convert string to float: 'a\\nb'"),
            UNTYPED,
            [["a\nb", 1]],
            0,
            "a value of the row: could",
        ),
        (CONTAINS_NAN, UNTYPED, [[1, 2], [1, None]], 1, 'the value of "s": Input X contains NaN.'),
        (TypeError("float() argument must be .. not 'NoneType'"), UNTYPED, [[None, 2]], 0, 'the value of "x": float()'),
        (
            ValueError("Input contains infinity or a value too large"),
            UNTYPED,
            [[1, 2], [1e39, 2]],
            1,
            'the value of "x"',
        ),
        (
            ValueError("Input X contains infinity"),
            TYPED,
            [{"x": 1, "s": ""}, {"x": -1e39, "s": ""}],
            1,
            'the value of "x"',
        ),
        (
            CONTAINS_NAN,
            TENSOR,
            [{"image": [1, 2]}, {"image": [1, None]}],
            1,
            'the value of "image": Input X contains NaN.',
        ),
        (
            CONTAINS_NAN,
            TENSOR,
            [{"image": [1, 2]}, {"image": [1, 2]}],
            None,
            "a value of the row: Input X contains NaN.",
        ),
        (ValueError("setting an array element with a sequence."), UNTYPED, [[1, 2], [1, [2]]], 1, 'the value of "s"'),
        (TypeError("unhashable type: 'dict'"), UNTYPED, [[{}, 1]], 0, 'the value of "x": unhashable type'),
        (
            ValueError("Found unknown categories ['z'] in column 1 during transform"),
            TYPED,
            [["1", "z"]] * 2,
            0,
            'the value of "s": Found unknown categories',
        ),
        (KeyError("z"), UNTYPED, [["z", 1], ["y", 1]], None, "a value of the row: 'z'"),
        (
            AttributeError("'int' object has no attribute 'lower'"),
            UNTYPED,
            [[1, 2]],
            0,
            "the value of \"x\": 'int' object",
        ),
        (OverflowError("int too large to convert to float"), UNTYPED, [[1, 2]], 0, "a value of the row: int too large"),
        (
            MlflowException("Incompatible input types for column s."),
            TYPED,
            [{"x": 1, "s": ""}],
            0,
            "a value of the row: Inc",
        ),
        (
            ValueError("inhomogeneous shape"),
            RAGGED,
            [{"image": [1]}, {"image": [1, 2]}],
            None,
            "a value of the row: inho",
        ),
    ],
)
def test_error_about_a_value_names_its_row_and_column(
    error: Exception, schema: InputSchema, rows: list[object], row: int | None, detail: str
) -> None:
    """An error about a value of the rows is one of the request, with the row and the column as far as it tells."""
    parsed = rows_of(schema, *([dict(zip(schema.names, r, strict=True)) if isinstance(r, list) else r for r in rows]))
    refused = refusal(error, schema, parsed)
    assert refused.row == row
    assert refused.detail.startswith(f"the model does not accept {detail}")
    assert "\n" not in refused.detail


@pytest.mark.parametrize(
    ("error", "schema"),
    [
        (NOT_A_NUMBER, TYPED),
        (TypeError("unsupported operand"), TYPED),
        (KeyError("missing file"), TENSOR),
        (OSError("no such file"), UNTYPED),
        (RuntimeError("the weights are not loaded"), UNTYPED),
        (MemoryError(), RAGGED),
        (AssertionError("invariant"), UNTYPED),
    ],
)
def test_other_error_is_not_the_fault_of_the_request(error: Exception, schema: InputSchema) -> None:
    """An error that no value of the rows explains stays as it is, so that it is logged and answered with a 500."""
    rows = rows_of(schema, {"image": [1, 2]} if schema in (TENSOR, RAGGED) else {"x": 1, "s": "a"})
    with pytest.raises(type(error)) as caught, translated_row_errors(rows, schema):
        raise error
    assert caught.value is error


def test_parameters_make_errors_those_of_the_request() -> None:
    """With parameters, whose values the signature does not limit, errors about values are those of the request."""
    rows = rows_of(TYPED, {"x": 1, "s": "a"})
    assert refusal(ValueError("top must be positive"), TYPED, rows, loose=True).row == 0
    with pytest.raises(RuntimeError), translated_row_errors(rows, TYPED, loose=True):
        raise RuntimeError


def test_refusal_of_the_engine_itself_is_unchanged() -> None:
    """An InvalidRows of the engine passes unchanged."""
    error = InvalidRows("refused", (), 3)
    with pytest.raises(InvalidRows) as caught, translated_row_errors(rows_of(UNTYPED, [1, 2]), UNTYPED):
        raise error
    assert caught.value is error


def test_long_error_of_a_model_is_shortened() -> None:
    """Only the beginning of the first line of a model's error is repeated."""
    refused = refusal(ValueError("x" * 10_000), UNTYPED, rows_of(UNTYPED, [1, 2]))
    assert len(refused.detail) < 300


def test_missing_value_in_an_array_of_any_type_is_found() -> None:
    """The search for a missing value also handles arrays of texts, dates and objects."""
    schema = schema_of_names(["a"])
    for array, row in (
        (np.array(["a"]), None),
        (np.array(["NaT"], "datetime64[ns]"), 0),
        (np.array([None, np.nan], object), 0),
    ):
        table = np.empty((1, 1), object)
        table[0, 0] = array
        rows = Rows(np.empty((1, 0)), np.concatenate([table, table])[:2])
        refused = refusal(CONTAINS_NAN, schema, Rows(np.empty((2, 0)), rows.objects))
        assert refused.row == row
