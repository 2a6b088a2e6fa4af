"""Tests of rows in each form that a model takes, and of which requests may share a predict call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from server.errors import InvalidRows, SchemaMismatch
from server.inference.columns import Column
from server.inference.schema import Form, InputSchema, RowTable
from server.inference.signature import RECORDS, schema_from_signature, schema_of_names, schema_of_width

FRAME = schema_of_names(["a", "b"])
WIDTH = schema_of_width(2)
TEXTS = InputSchema((Column("x0", "any"),), form=Form.ARRAY, is_flat=True)


def tensors(*specs: tuple[str | None, str, list[int]]) -> InputSchema:
    inputs: list[dict[str, Any]] = [
        {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **({} if name is None else {"name": name})}
        for name, dtype, shape in specs
    ]
    return schema_from_signature(inputs, {})


MATRIX = tensors((None, "float64", [-1, 2]))
IMAGES = tensors((None, "uint8", [-1, 2, 2]))
NAMED = tensors(("image", "float32", [-1, 2]), ("size", "int64", [-1]))
ARRAYS = schema_from_signature([{"name": "v", "type": "array", "items": {"type": "double"}}], {})
STRINGS = schema_from_signature([{"type": "string"}], {}, type_hint=True)
OBJECTS = schema_from_signature([{"type": "object", "properties": {"n": {"type": "long"}}}], {}, type_hint=True)
ANYTHING = schema_from_signature([{"type": "any"}], {}, type_hint=True)


def table(names: list[str], *rows: list[object]) -> RowTable:
    return RowTable(names, list(rows), "#", lambda i, j: f"#/{i}/{j}")


def plain(rows: Any) -> Any:
    """Return rows with their arrays as lists."""
    return [[value.tolist() if isinstance(value, np.ndarray) else value for value in row] for row in rows]


@pytest.mark.parametrize(
    ("schema", "document", "rows"),
    [
        (FRAME, {"a": "x", "b": None}, [["x", None]]),
        (FRAME, {"features": [1, [2]]}, [[1, [2]]]),
        (FRAME, {"instances": [{"a": 1, "b": {}}, [True, "x"]]}, [[1, {}], [True, "x"]]),
        (WIDTH, {"features": [1, "x"]}, [[1, "x"]]),
        (WIDTH, {"x0": 1, "x1": 2}, [[1, 2]]),
        (WIDTH, {"instances": [[1, 2], {"x1": 4, "x0": 3}]}, [[1, 2], [3, 4]]),
        (TEXTS, {"features": "a text"}, [["a text"]]),
        (TEXTS, {"features": ["a text"]}, [["a text"]]),
        (TEXTS, {"instances": ["a", ["b"], {"x0": "c"}]}, [["a"], ["b"], ["c"]]),
        (MATRIX, {"features": [1, None]}, [[1, None]]),
        (MATRIX, {"instances": [[1, 2.5]]}, [[1, 2.5]]),
        (IMAGES, {"features": [[1, 2], [3, 4]]}, [[[[1, 2], [3, 4]]]]),
        (
            IMAGES,
            {"instances": [[[1, 2], [3, 4]], {"x0": [[0, 0], [0, 255]]}]},
            [[[[1, 2], [3, 4]]], [[[0, 0], [0, 255]]]],
        ),
        (NAMED, {"image": [1, 2], "size": 3}, [[[1, 2], 3]]),
        (NAMED, {"instances": [{"size": 3, "image": [1, 2]}, [[3, 4], 5]]}, [[[1, 2], 3], [[3, 4], 5]]),
        (ARRAYS, {"v": [1, 2]}, [[[1, 2]]]),
        (ARRAYS, {"features": [1, 2, 3]}, [[[1, 2, 3]]]),
        (ARRAYS, {"instances": [[1], {"v": []}]}, [[[1]], [[]]]),
        (STRINGS, {"features": "a"}, [["a"]]),
        (STRINGS, {"instances": ["a", "b"]}, [["a"], ["b"]]),
        (OBJECTS, {"instances": [{"n": 1}, {"n": 2}]}, [[{"n": 1}], [{"n": 2}]]),
        (OBJECTS, {"features": {"n": 1}}, [[{"n": 1}]]),
        (OBJECTS, {"n": 1}, [[{"n": 1}]]),
        (OBJECTS, {"instances": [{}, {"m": "a"}]}, [[{}], [{"m": "a"}]]),
        (ANYTHING, {"instances": [1, "a", [1], {"b": 2}, None]}, [[1], ["a"], [[1]], [{"b": 2}], [None]]),
        (RECORDS, {"a": 1, "b": [2]}, [[{"a": 1, "b": [2]}]]),
        (RECORDS, {"features": [1, 2]}, [[[1, 2]]]),
        (RECORDS, {"instances": [{"a": 1}, [2], "c", None]}, [[{"a": 1}], [[2]], ["c"], [None]]),
    ],
)
def test_row_is_accepted_in_the_forms_of_its_model(schema: InputSchema, document: object, rows: object) -> None:
    """A row may be a list, an object by name or, where a row has one value, that value."""
    assert plain(schema.parse(document, 9).values) == rows


@pytest.mark.parametrize(
    ("schema", "document", "pointer", "detail"),
    [
        (FRAME, {"a": 1}, "#/b", "is missing; must be any value"),
        (FRAME, {"a": 1, "b": 2, "c": 3}, "#/c", "is not a feature of this model"),
        (FRAME, {"features": [1]}, "#/features", "must be a list of 2 values, got 1 values"),
        (
            FRAME,
            {"instances": ["a"]},
            "#/instances/0",
            'must be a list of 2 values or an object of features by name, got "a"',
        ),
        (WIDTH, {"instances": [[1, 2], [1]]}, "#/instances/1", "must be a list of 2 values or an object"),
        (WIDTH, {"x0": 1, "x2": 2}, "#/x2", "is not a feature of this model"),
        (TEXTS, {"instances": [["a", "b"]]}, "#/instances/0", "must be a list of 1 value or an object"),
        (TEXTS, {"instances": "a"}, "#/instances", 'must be a list of at least one row, got "a"'),
        (MATRIX, {"features": [1, "2"]}, "#/features/1", 'must be a number, got "2"'),
        (MATRIX, {"features": [1, True]}, "#/features/1", "must be a number, got true"),
        (MATRIX, {"features": [[1], 2]}, "#/features/0", "must be a number, got a list of 1"),
        (MATRIX, {"instances": [[1, 2], [1, 2, 3]]}, "#/instances/1", "must be a list of 2 values or an object"),
        (IMAGES, {"features": [[1, 2], [3]]}, "#/features/1", "must be a list of 2, got a list of 1"),
        (
            IMAGES,
            {"instances": [[[1, 2], [3, 256]]]},
            "#/instances/0/1/1",
            "must be a whole number from 0 to 255, got 256",
        ),
        (
            IMAGES,
            {"instances": [{"x0": [[1, 2], [3, None]]}]},
            "#/instances/0/x0/1/1",
            "must be a whole number, got null",
        ),
        (NAMED, {"image": [1, 2]}, "#/size", "is missing; must be a whole number"),
        (NAMED, {"image": [1, 2], "size": 1.5}, "#/size", "must be a whole number, got 1.5"),
        (NAMED, {"image": [1, "a"], "size": 1}, "#/image/1", 'must be a number, got "a"'),
        (NAMED, {"instances": [[1, 2]]}, "#/instances/0/0", "must be a list of 2, got 1"),
        (ARRAYS, {"v": [1, "a"]}, "#/v/1", 'must be a number, got "a"'),
        (ARRAYS, {"instances": [[1, None]]}, "#/instances/0/1", "must be a number, got null"),
        (STRINGS, {"instances": ["a", 1]}, "#/instances/1", "must be a string, got 1"),
        (OBJECTS, {"instances": [{"n": 1}, {"n": "a"}]}, "#/instances/1/n", 'must be a whole number, got "a"'),
        (RECORDS, {"instances": []}, "#/instances", "must be a list of at least one row, got a list of 0"),
        (RECORDS, [1], "#", "must be an object, got a list of 1"),
    ],
)
def test_wrong_row_is_refused_with_its_place(schema: InputSchema, document: object, pointer: str, detail: str) -> None:
    """A row of another form is refused with the JSON pointer of the first part of it that is wrong."""
    with pytest.raises(InvalidRows) as caught:
        schema.parse(document, 9)
    assert caught.value.faults[0].pointer == pointer
    assert caught.value.faults[0].detail.startswith(detail)


@pytest.mark.parametrize("schema", [FRAME, WIDTH, MATRIX])
def test_parameters_stand_beside_the_rows(schema: InputSchema) -> None:
    """The key params is taken only beside instances or features: elsewhere it is the name of a feature."""
    for wrapper, value in (("features", [1, 2]), ("instances", [[1, 2]])):
        assert schema.parse({wrapper: value, "params": {"a": 1}}, 9).params == {"a": 1}
        assert schema.parse({wrapper: value}, 9).params is None
    document: dict[str, object] = {**dict.fromkeys(schema.names, 1), "params": {"a": 1}}
    with pytest.raises(InvalidRows, match="params is not a feature of this model"):
        schema.parse(document, 9)
    with pytest.raises(InvalidRows, match="parameters is not expected beside 'features'"):
        schema.parse({"features": [1, 2], "parameters": {}}, 9)


@pytest.mark.parametrize("name", ["params", "instances", "features"])
def test_feature_may_have_the_name_of_a_wrapper(name: str) -> None:
    """A feature that is called like a key of the document is a feature."""
    schema = schema_of_names([name, "b"])
    assert schema.parse({name: [1], "b": 2}, 9).values == [[[1], 2]]
    other = "features" if name == "instances" else "instances"
    assert schema.parse({other: [3, 4] if other == "features" else [[3, 4]]}, 9).values == [[3, 4]]


@pytest.mark.parametrize("names", [["x1", "x0"], ["a", "b"], ["0", "1"]])
def test_lenient_columns_of_an_array_may_have_any_names(names: list[str]) -> None:
    """A table with as many columns as the array is taken by position, unless it has the array's own names."""
    expected = [[2, 1]] if names[0] == "x1" else [[1, 2]]
    for schema in (WIDTH.lenient(), MATRIX.lenient()):
        assert schema.parse_table(table(names, [1, 2]), 9) == expected
        assert schema.parse_records([dict(zip(names, [1, 2], strict=True))], "#", 9) == expected


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["x0", "b"]])
def test_lenient_columns_of_an_array_must_be_as_many(names: list[str]) -> None:
    """A table with fewer or more columns, or with only some of the array's names, lacks columns."""
    for schema in (WIDTH.lenient(), MATRIX.lenient()):
        with pytest.raises(SchemaMismatch, match="the model's required columns"):
            schema.parse_table(table(names, [*range(len(names))]), 9)
        with pytest.raises(SchemaMismatch, match="the model's required columns"):
            schema.parse_records([dict.fromkeys(names, 1)], "#", 9)


def test_strict_columns_of_an_array_need_their_names() -> None:
    """By name, /predict takes only x0, x1, .., since other names may be in another order."""
    with pytest.raises(InvalidRows, match="a is not a feature of this model"):
        WIDTH.parse({"a": 1, "b": 2}, 9)


def test_lenient_values_of_an_array_are_converted() -> None:
    """The lenient policy converts values of an array to its dtype, and keeps those without a dtype."""
    assert MATRIX.lenient().parse_values([["1", True]], "#", 9) == [[1.0, 1.0]]
    assert WIDTH.lenient().parse_values([["1", True]], "#", 9) == [["1", True]]


def test_lenient_values_of_a_type_hint_are_not_converted() -> None:
    """Values of a type hint are checked strictly under both policies, because MLflow does not convert them."""
    number = schema_from_signature([{"type": "long"}], {}, type_hint=True).lenient()
    assert number.parse_values([1, 2.0], "#", 9) == [[1], [2.0]]
    for schema, value in ((number, 1.5), (number, "1"), (number, True), (STRINGS.lenient(), 1)):
        with pytest.raises(InvalidRows, match="must be a"):
            schema.parse_values([value], "#", 9)


def test_records_keep_the_names_of_each_request() -> None:
    """Rows of a model of which nothing is known are objects with the names of the request."""
    schema = RECORDS.lenient()
    assert schema.parse_table(table(["a", "b"], [1, 2], [3, 4]), 9) == [[{"a": 1, "b": 2}], [{"a": 3, "b": 4}]]
    assert schema.parse_records([{"a": 1}], "#", 9) == [[{"a": 1}]]
    assert schema.parse_values([[1, 2], 3], "#", 9) == [[[1, 2]], [3]]
    with pytest.raises(InvalidRows, match="1 must be an object of columns by name, got 3"):
        schema.parse_records([{"a": 1}, 3], "#", 9)


def test_untyped_values_stay_json_values() -> None:
    """Values of columns without a type, also lists and objects, are passed on in a table of objects."""
    rows = FRAME.to_rows(FRAME.parse({"instances": [[1, [2]], ["a", {"b": None}], [True, None]]}, 9).values)
    assert rows.numbers.shape == (3, 0)
    assert rows.objects.tolist() == [[1, [2]], ["a", {"b": None}], [True, None]]
    equal_lists = FRAME.to_rows([[[1], [2]], [[3], [4]]])
    assert equal_lists.objects.shape == (2, 2)


def kinds(schema: InputSchema, *rows: Any) -> object:
    return schema.value_kinds(rows)


def test_typed_rows_always_share_a_call() -> None:
    """Requests to a model whose columns all have types share a call, whatever their values."""
    for schema in (MATRIX, IMAGES, NAMED, ARRAYS, STRINGS):
        assert schema.is_typed
        assert schema.value_kinds([]) == ()


@pytest.mark.parametrize("schema", [FRAME, WIDTH])
def test_untyped_rows_share_a_call_with_values_of_the_same_kinds(schema: InputSchema) -> None:
    """Requests share a call if each column without a type has values of the same kinds, in any order."""
    assert kinds(schema, [1, "a"]) == kinds(schema, [2.5, "b"])
    assert kinds(schema, [1, None], [None, "a"]) == kinds(schema, [None, "b"], [3, None])
    different = [[1, "a"], ["1", "a"], [True, "a"], [None, "a"], [1, 2], [[1], "a"], [{}, "a"]]
    assert len({kinds(schema, row) for row in different}) == len(different)
    assert kinds(schema, [1, "a"], ["x", "a"]) not in (kinds(schema, [1, "a"]), kinds(schema, ["x", "a"]))


def test_records_share_a_call_with_rows_of_the_same_columns() -> None:
    """Requests to a model of which nothing is known share a call if they have the same names and kinds of values."""
    assert kinds(RECORDS, [{"a": 1, "b": "x"}]) == kinds(RECORDS, [{"a": 2, "b": "y"}], [{"a": 3.5, "b": "z"}])
    different: list[object] = [
        {"a": 1},
        {"a": "1"},
        {"b": 1},
        {"a": 1, "b": 1},
        {"b": 1, "a": 1},
        [1],
        [1, 2],
        1,
        "1",
        None,
    ]
    assert len({kinds(RECORDS, [row]) for row in different}) == len(different)


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], ["a", 2]), ([1], [[1]]), ([1, None], [1, 2]), ([1, 2], [1, 2, 3]), (1, 2**53 + 1), ({"a": 1}, {"b": 1})],
)
def test_records_of_different_kinds_do_not_share_a_call(first: object, second: object) -> None:
    """Rows whose arrays or frames would have other types together than alone are kept apart."""
    assert RECORDS.value_kinds([[first]]) != RECORDS.value_kinds([[second]])
    assert RECORDS.value_kinds([[[1, 2.5]]]) == RECORDS.value_kinds([[[2, 3]]])


def test_deep_lists_are_compared_to_a_limit() -> None:
    """A list that is nested as deeply as JSON may be is compared without an error."""
    nested: list[object] = []
    for _ in range(1000):
        nested = [nested]
    assert RECORDS.value_kinds([[nested]]) != RECORDS.value_kinds([[1]])
