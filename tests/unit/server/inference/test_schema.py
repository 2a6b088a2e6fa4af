"""Tests of the input schema: every fault has a detail and a JSON pointer, and valid rows keep the numbers sent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Fault, InvalidRows, ModelError
from server.inference.columns import Column
from server.inference.faults import MAX_FAULTS
from server.inference.schema import InputSchema, ParsedRequest, RowTable
from server.inference.signature import schema_from_signature
from server.protocols.json_codec import decode, encode_problem

COVERTYPE = schema_from_signature(
    [{"type": "long", "name": name} for name in ("elevation", "slope", "soil_type")],
    {"elevation": [1859, 3858], "soil_type": [1, 40]},
)
MIXED = schema_from_signature(
    [
        {"type": "string", "name": "city"},
        {"type": "double", "name": "area", "required": True},
        {"type": "boolean", "name": "new"},
        {"type": "string", "name": "note", "required": False},
        {"type": "long", "name": "rooms", "required": False},
        {"type": "boolean", "name": "lift", "required": False},
    ],
    {},
)
GOOD = {"elevation": 2596, "slope": 3, "soil_type": 29}
HOME = {"city": "Oslo", "area": 71.5, "new": True}
TYPE_RANGES = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-(2**53), 2**53),
    "float": (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)),
    "double": (-float(np.finfo(np.float64).max), float(np.finfo(np.float64).max)),
}


def single_column_schema(type_name: str, limits: list[float] | None = None, required: bool = True) -> InputSchema:
    return schema_from_signature(
        [{"type": type_name, "name": "x", "required": required}], {} if limits is None else {"x": limits}
    )


def invalid_rows(schema: InputSchema, document: object, max_rows: int = 10) -> InvalidRows:
    with pytest.raises(InvalidRows) as caught:
        schema.parse(document, max_rows)
    assert caught.value.status == 422
    assert 1 <= len(caught.value.faults) <= MAX_FAULTS
    return caught.value


def faults_of(schema: InputSchema, document: object, max_rows: int = 10) -> list[tuple[str, str]]:
    return [(fault.pointer, fault.detail) for fault in invalid_rows(schema, document, max_rows).faults]


def parse_or_error(schema: InputSchema, document: object) -> ParsedRequest | InvalidRows:
    try:
        return schema.parse(document, 3)
    except InvalidRows as error:
        return error


def numbers_of(schema: InputSchema, document: object, max_rows: int = 10) -> list[list[float]]:
    """Return the rows of a valid document as the array of numbers that engines take."""
    rows = schema.to_rows(schema.parse(document, max_rows).values)
    assert rows.numbers.dtype == np.float64
    return rows.numbers.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("document", "has_instances"),
    [
        (GOOD, False),
        (dict(reversed(GOOD.items())), False),
        ({"features": [2596, 3, 29]}, False),
        ({"features": [2596.0, 3.0, 29.0]}, False),
        ({"instances": [GOOD]}, True),
        ({"instances": [[2596, 3, 29]]}, True),
    ],
)
def test_all_request_forms_parse_to_the_same_row(document: object, has_instances: bool) -> None:
    """All request forms, by name or by position, give the same row in the signature's order."""
    request = COVERTYPE.parse(document, 1)
    assert request.has_instances is has_instances
    assert request.values == [[2596, 3, 29]]
    rows = COVERTYPE.to_rows(request.values)
    assert rows.numbers.tolist() == [[2596, 3, 29]]
    assert rows.numbers.dtype == np.float64
    assert rows.objects.shape == (1, 0)


def test_named_and_positional_rows_can_be_mixed() -> None:
    """Rows by name and rows by position may be mixed in one request, and keep their order."""
    document = {"instances": [[2000, 1, 1], GOOD, [3000.0, -5, 40]]}
    assert numbers_of(COVERTYPE, document, 3) == [[2000, 1, 1], [2596, 3, 29], [3000, -5, 40]]


@pytest.mark.parametrize(
    ("document", "pointer", "detail"),
    [
        ({"elevation": 2596, "slope": 3}, "#/soil_type", "is missing; must be a whole number from 1 to 40"),
        ({"elevation": 2596, "soil_type": 1}, "#/slope", "is missing; must be a whole number"),
        (GOOD | {"colour": 1}, "#/colour", "is not a feature of this model"),
        (GOOD | {"": 1}, "#/", "is not a feature of this model"),
        (GOOD | {"a/b~c": 1}, "#/a~1b~0c", "is not a feature of this model"),
        (GOOD | {"Slope": 1}, "#/Slope", "is not a feature of this model"),
        (GOOD | {"slope": True}, "#/slope", "must be a whole number, got true"),
        (GOOD | {"slope": "3"}, "#/slope", 'must be a whole number, got "3"'),
        (GOOD | {"slope": None}, "#/slope", "must be a whole number, got null"),
        (GOOD | {"slope": [3]}, "#/slope", "must be a whole number, got a list of 1"),
        (GOOD | {"slope": {"x": 1}}, "#/slope", "must be a whole number, got an object"),
        (GOOD | {"elevation": 1858}, "#/elevation", "must be a whole number from 1859 to 3858, got 1858"),
        (GOOD | {"elevation": 3859.0}, "#/elevation", "must be a whole number from 1859 to 3858, got 3859"),
        (GOOD | {"elevation": 2000.5}, "#/elevation", "must be a whole number from 1859 to 3858, got 2000.5"),
        (GOOD | {"soil_type": 0}, "#/soil_type", "must be a whole number from 1 to 40, got 0"),
        (GOOD | {"soil_type": math.nan}, "#/soil_type", "must be a whole number from 1 to 40, got nan"),
        ({"features": [2596, 3]}, "#/features", "must be a list of 3 values, got 2 values"),
        ({"features": [2596, 3, 29, 1]}, "#/features", "must be a list of 3 values, got 4 values"),
        ({"features": []}, "#/features", "must be a list of 3 values, got 0 values"),
        ({"features": GOOD}, "#/features", "must be a list of 3 values, got an object"),
        ({"features": None}, "#/features", "must be a list of 3 values, got null"),
        ({"features": [2596, 3, 41]}, "#/features/2", "must be a whole number from 1 to 40, got 41"),
        ({"features": [2596, None, 1]}, "#/features/1", "must be a whole number, got null"),
        ({"features": [2596, 3, 29], "slope": 1}, "#/slope", "is not expected beside 'features'"),
        ({"instances": [GOOD], "x/y": 1}, "#/x~1y", "is not expected beside 'instances'"),
        ({"instances": [GOOD], "features": []}, "#/features", "is not expected beside 'instances'"),
        ({"instances": []}, "#/instances", "must be a list of at least one row, got a list of 0"),
        ({"instances": GOOD}, "#/instances", "must be a list of at least one row, got an object"),
        ({"instances": None}, "#/instances", "must be a list of at least one row, got null"),
        ({"instances": [GOOD] * 11}, "#/instances", "must have at most 10 rows, got 11"),
        (
            {"instances": [GOOD, [1, 2]]},
            "#/instances/1",
            "must be a list of 3 values or an object of features by name, got 2 values",
        ),
        (
            {"instances": [7]},
            "#/instances/0",
            "must be a list of 3 values or an object of features by name, got 7",
        ),
        ({"instances": [GOOD, GOOD | {"slope": "x"}]}, "#/instances/1/slope", 'must be a whole number, got "x"'),
        ({"instances": [GOOD, [2596, 3, 0]]}, "#/instances/1/2", "must be a whole number from 1 to 40, got 0"),
        ({"instances": [GOOD | {"b": 1}]}, "#/instances/0/b", "is not a feature of this model"),
        ([GOOD], "#", "must be an object, got a list of 1"),
        ("x", "#", 'must be an object, got "x"'),
        (None, "#", "must be an object, got null"),
        (True, "#", "must be an object, got true"),
        (1.5, "#", "must be an object, got 1.5"),
    ],
)
def test_each_fault_has_a_detail_and_json_pointer(document: object, pointer: str, detail: str) -> None:
    """Each kind of invalid input gives one fault with its detail and its JSON pointer."""
    assert faults_of(COVERTYPE, document) == [(pointer, detail)]


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        ({"instances": [[1859, 0, 0]]}, "instances.0.2 must be a whole number from 1 to 40, got 0"),
        ([], "the body must be an object, got a list of 0"),
        (GOOD | {"a": 1, "b": 2}, "a is not a feature of this model (and 1 more)"),
        ({}, "elevation is missing; must be a whole number from 1859 to 3858 (and 2 more)"),
    ],
)
def test_error_names_the_first_fault_and_counts_the_others(document: object, detail: str) -> None:
    """The detail of the error is its first fault, with the number of the other faults."""
    assert invalid_rows(COVERTYPE, document).detail == detail


def test_all_faults_of_all_rows_are_listed() -> None:
    """Every fault of every row is listed in order, so that a client can be fixed in one step."""
    rows = [{"elevation": 1, "slope": 2, "x": 3}, [2000, "a", 50], GOOD]
    assert [pointer for pointer, _ in faults_of(COVERTYPE, {"instances": rows})] == [
        "#/instances/0/x",
        "#/instances/0/elevation",
        "#/instances/0/soil_type",
        "#/instances/1/1",
        "#/instances/1/2",
    ]


@pytest.mark.parametrize(
    "document",
    [
        {f"key {i}": i for i in range(1000)},
        {"features": [1, 2, 3]} | {f"key {i}": i for i in range(1000)},
        {"instances": [{} for _ in range(1000)]},
        {"instances": [None] * 1000},
        {"instances": [{f"key {i}": i for i in range(1000)}]},
    ],
)
def test_at_most_20_faults_are_listed(document: object) -> None:
    """An error lists at most 20 faults, however many the request has."""
    error = invalid_rows(COVERTYPE, document, 1000)
    assert len(error.faults) == 20
    assert error.detail.endswith(" (and 19 more)")


@pytest.mark.parametrize(
    "document",
    [
        GOOD | {"k" * 100_000: 1},
        GOOD | {"~/" * 100_000: 1},
        GOOD | {"slope": "v" * 100_000},
        GOOD | {"slope": ["v"] * 100_000},
        {"instances": "v" * 100_000},
        {"features": ["v" * 100_000] * 3},
        {"features": [1859, 3, 1], "k" * 100_000: 1},
        "v" * 100_000,
    ],
)
def test_long_keys_and_values_are_truncated(document: object) -> None:
    """Errors repeat at most 100 characters of a key and 40 of a value."""
    error = invalid_rows(COVERTYPE, document)
    for fault in error.faults:
        assert len(fault.pointer) < 220
        assert len(fault.detail) < 150
    assert len(error.detail) < 400
    assert "k" * 101 not in error.detail
    assert "v" * 41 not in error.detail


@pytest.mark.parametrize("type_name", TYPE_RANGES)
def test_numbers_are_accepted_up_to_type_limits(type_name: str) -> None:
    """A number column accepts the range of its type, including both ends, and nothing beyond it."""
    schema = single_column_schema(type_name)
    low, high = TYPE_RANGES[type_name]
    for value in (low, 0, high):
        assert numbers_of(schema, {"x": value}) == [[value]]
    for value in (int(low) * 2, int(high) * 2, math.inf, -math.inf, math.nan):
        ((pointer, detail),) = faults_of(schema, {"x": value})
        assert pointer == "#/x"
        assert detail.startswith("must be a ")
        assert f" number from {str(low).removesuffix('.0')} to " in detail


@pytest.mark.parametrize(
    ("type_name", "value"), [("integer", 2**31), ("integer", -(2**31) - 1), ("long", 2**53 + 1), ("long", -(2**53) - 1)]
)
def test_integer_just_outside_its_type_is_refused(type_name: str, value: int) -> None:
    """An integer just outside the range of its type is refused, not rounded or wrapped."""
    low, high = TYPE_RANGES[type_name]
    assert faults_of(single_column_schema(type_name), {"x": value}) == [
        ("#/x", f"must be a whole number from {low} to {high}, got {value}")
    ]


def test_range_wider_than_the_type_is_reduced() -> None:
    """A range in the metadata that exceeds that of the column's type is reduced to it."""
    assert faults_of(single_column_schema("integer", [0, 2**40]), {"x": 2**31}) == [
        ("#/x", f"must be a whole number from 0 to {2**31 - 1}, got {2**31}")
    ]
    assert single_column_schema("double", [0, math.inf]).columns[0].high == TYPE_RANGES["double"][1]


@pytest.mark.parametrize("value", [3000, 3000.0, -0.0, 1e3])
def test_float_without_fraction_is_an_integer(value: float) -> None:
    """An integer column accepts a float without a fraction."""
    assert numbers_of(single_column_schema("integer"), {"x": value}) == [[value]]


@pytest.mark.parametrize("value", [0.5, 1e-300, 2999.9999999])
def test_integer_columns_reject_fractions(value: float) -> None:
    """An integer column refuses a fraction, and a double column accepts it."""
    assert faults_of(single_column_schema("long"), {"x": value})[0][0] == "#/x"
    assert numbers_of(single_column_schema("double", [0, 3000]), {"x": value}) == [[value]]


def test_strings_stay_separate_and_booleans_become_numbers() -> None:
    """String columns become an array of objects, and boolean columns 0 and 1 among the numbers."""
    request = MIXED.parse(
        {"instances": [HOME | {"rooms": 3, "lift": False, "note": ""}, ["é", 1, False, "n", 2.0, True]]}, 2
    )
    assert request.values == [["Oslo", 71.5, True, "", 3, False], ["é", 1, False, "n", 2.0, True]]
    rows = MIXED.to_rows(request.values)
    assert rows.numbers.tolist() == [[71.5, 1, 3, 0], [1, 0, 2, 1]]
    assert rows.objects.tolist() == [["Oslo", ""], ["é", "n"]]
    assert rows.numbers.dtype == np.float64
    assert rows.objects.dtype == np.object_


@pytest.mark.parametrize("document", [HOME, HOME | {"note": None, "rooms": None, "lift": None}])
def test_missing_optional_value_becomes_nan_or_none(document: dict[str, object]) -> None:
    """A missing or null optional value becomes NaN in a number or boolean column and None in a string column."""
    request = MIXED.parse(document, 1)
    assert request.values == [["Oslo", 71.5, True, None, None, None]]
    rows = MIXED.to_rows(request.values)
    assert rows.numbers[0, :2].tolist() == [71.5, 1]
    assert np.isnan(rows.numbers[0, 2:]).all()
    assert rows.objects.tolist() == [["Oslo", None]]


def test_missing_optional_number_is_nan_in_all_forms() -> None:
    """A missing optional number becomes NaN in every request form if the model has only number columns."""
    schema = single_column_schema("double", required=False)
    for document in ({}, {"x": None}, {"features": [None]}, {"instances": [{}, [None]]}):
        assert np.isnan(numbers_of(schema, document)).all()


@pytest.mark.parametrize(
    ("change", "pointer", "detail"),
    [
        ({"city": 1}, "#/city", "must be a string, got 1"),
        ({"city": None}, "#/city", "must be a string, got null"),
        ({"city": True}, "#/city", "must be a string, got true"),
        ({"new": 1}, "#/new", "must be true or false, got 1"),
        ({"new": 0.0}, "#/new", "must be true or false, got 0"),
        ({"new": "true"}, "#/new", 'must be true or false, got "true"'),
        ({"new": None}, "#/new", "must be true or false, got null"),
        ({"note": 7}, "#/note", "must be a string, got 7"),
        ({"lift": 1}, "#/lift", "must be true or false, got 1"),
        ({"area": False}, "#/area", "must be a number, got false"),
        ({"rooms": 2.5}, "#/rooms", "must be a whole number, got 2.5"),
    ],
)
def test_strict_policy_converts_no_types(change: dict[str, object], pointer: str, detail: str) -> None:
    """The strict policy converts no value to another type, also in optional columns."""
    assert faults_of(MIXED, HOME | change) == [(pointer, detail)]


@pytest.mark.parametrize("name", ["features", "instances"])
def test_feature_named_like_a_wrapper_key_is_a_feature(name: str) -> None:
    """A feature called `features` or `instances` is read as a feature, and the other wrapper key still works."""
    schema = schema_from_signature([{"type": "double", "name": name}, {"type": "double", "name": "y"}], {})
    assert numbers_of(schema, {name: 1, "y": 2}) == [[1, 2]]
    wrapped = {"features": {"instances": [[1, 2]]}, "instances": {"features": [1, 2]}}[name]
    assert numbers_of(schema, wrapped) == [[1, 2]]
    assert faults_of(schema, {name: [1, 2]}) == [
        (f"#/{name}", "must be a number, got a list of 2"),
        ("#/y", "is missing; must be a number"),
    ]


def test_unnamed_columns_are_called_by_position() -> None:
    """A column without a name is named after its index, and columns keep the signature's order."""
    schema = schema_from_signature([{"type": "double"}, {"type": "long", "name": "b"}], {})
    assert schema.names == ("0", "b")
    assert [column.required for column in schema.columns] == [True, True]


@pytest.mark.parametrize(
    ("inputs", "ranges", "message"),
    [
        (
            [{"type": "sparkml_vector", "name": "x"}],
            {},
            "column 'x' of the model has the type sparkml_vector; expected",
        ),
        ([{"type": "array", "items": {"type": "x"}, "name": "x"}], {}, "the type x; expected one of integer, long"),
        *(
            ([{"type": "tensor", "tensor-spec": spec}], {}, "has the tensor .*; expected a dtype and a shape")
            for spec in (None, {}, {"dtype": "x", "shape": [-1]}, {"dtype": "int64", "shape": []}, {"dtype": "int64"})
        ),
        (
            [{"type": "tensor", "tensor-spec": {"dtype": "complex128", "shape": [-1]}}],
            {},
            "the dtype complex128, which JSON cannot hold",
        ),
        ([{"name": "x"}], {}, "the type None"),
        ([{"type": "double", "name": "x"}, {"type": "long", "name": "x"}], {}, "names a column twice"),
        ([{"type": "double", "name": "x"}], {"y": [0, 1]}, "has a range for 'y', which is not one of its columns"),
        ([{"type": "string", "name": "x"}], {"x": [0, 1]}, "has a range for 'x', which is a string column"),
        ([{"type": "boolean", "name": "x"}], {"x": [0, 1]}, "has a range for 'x', which is a boolean column"),
        *(
            ([{"type": "double", "name": "x"}], {"x": value}, r"for 'x'; expected \[low, high\]")
            for value in ([1, 0], [1], [0, 1, 2], ["0", "1"], None, 3, "01", {"low": 0}, [None, 1], [math.nan, 1])
        ),
        ([{"type": "integer", "name": "x"}], {"x": [2**31, 2**32]}, r"for 'x'; expected \[low, high\]"),
        ([{"type": "double", "name": "x"}], [["x", 0, 1]], r"expected \{name: \[low, high\]\}"),
        ([{"type": "double", "name": "x"}], 5, r"expected \{name: \[low, high\]\}"),
    ],
)
def test_unsupported_signature_stops_the_start(inputs: list[dict[str, Any]], ranges: Any, message: str) -> None:
    """A signature or a range that cannot be served raises ModelError with a one-line reason."""
    with pytest.raises(ModelError, match=message) as caught:
        schema_from_signature(inputs, ranges)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({"z": [0, 1]}, "has a range for 'z', which is not one of its columns"),
        ({"city": [0, 1]}, "has a range for 'city', which is a string column"),
        *(({"x": value}, r"the observed range .* for 'x'; expected \[low, high\]") for value in ([1, 0], None, "01")),
        ({"x": [11, 12]}, r"the observed range \[11, 12\] for 'x'"),
        ([["x", 0, 1]], r"the observed ranges .*; expected \{name: \[low, high\]\}"),
    ],
)
def test_malformed_observed_range_stops_the_start(observed: Any, message: str) -> None:
    """An observed range that is malformed, or lies outside the enforced one, raises ModelError."""
    inputs = [{"type": "double", "name": "x"}, {"type": "string", "name": "city"}]
    with pytest.raises(ModelError, match=message):
        schema_from_signature(inputs, {"x": [0, 10]}, observed)


def test_observed_range_refuses_no_value() -> None:
    """What was observed in training is known for a column, and values outside it are accepted."""
    inputs = [{"type": "double", "name": name} for name in "abc"]
    schema = schema_from_signature(inputs, {"a": [0, 360], "b": [0, 9]}, {"a": [5, 400], "c": [1859, 3858]})
    assert [column.observed for column in schema.columns] == [(5, 360), None, (1859, 3858)]
    assert [column.usual_range for column in schema.columns] == [(5, 360), (0, 9), (1859, 3858)]
    assert schema.parse({"features": [1, 0, 5000.5]}, 1).values == [[1, 0, 5000.5]]
    with pytest.raises(InvalidRows, match=r"features\.0 must be a number from 0 to 360, got 361"):
        schema.parse({"features": [361, 0, 2000]}, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*GOOD, *HOME, "features", "instances"]) | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON | st.fixed_dictionaries({"instances": st.lists(JSON)}) | st.fixed_dictionaries({"features": JSON}))
def test_arbitrary_document_is_valid_or_refused(document: object) -> None:
    """Any JSON document either gives valid rows or is refused with an answer of limited size."""
    for schema in (COVERTYPE, MIXED):
        result = parse_or_error(schema, document)
        if isinstance(result, InvalidRows):
            assert 1 <= len(result.faults) <= MAX_FAULTS
            assert all(isinstance(fault, Fault) and fault.pointer.startswith("#") for fault in result.faults)
            assert len(encode_problem(422, result.detail, result.faults)) < 50_000
        else:
            assert 1 <= len(result.values) <= 3
            assert len(schema.to_rows(result.values)) == len(result.values)


ROWS = st.lists(
    st.tuples(
        st.integers(-(2**53), 2**53),
        st.integers(0, 100) | st.integers(0, 100).map(float),
        st.floats(allow_nan=False, allow_infinity=False),
        st.floats(allow_nan=False, width=32, allow_infinity=False),
    ).map(list),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_all_forms_preserve_the_sent_numbers(rows: list[list[float]]) -> None:
    """Parsed rows are exactly the numbers that were sent as JSON, in every request form."""
    types = {"whole": "long", "limited": "integer", "real": "double", "single": "float"}
    schema = schema_from_signature(
        [{"type": type_name, "name": name} for name, type_name in types.items()], {"limited": [0, 100]}
    )
    named = [dict(zip(types, row, strict=True)) for row in rows]
    for instances in (rows, named):
        document = decode(json.dumps({"instances": instances}).encode())
        assert schema.parse(document, 5).has_instances
        assert numbers_of(schema, document, 5) == rows
    for row, by_name in zip(rows, named, strict=True):
        for form in (by_name, {"features": row}):
            document = decode(json.dumps(form).encode())
            assert not schema.parse(document, 1).has_instances
            assert numbers_of(schema, document, 1) == [row]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers(-50, 50).map(float)


@given(st.sampled_from(list(TYPE_RANGES)), st.tuples(st.integers(-50, 50), st.integers(-50, 50)) | st.none(), SCALARS)
def test_accepts_agrees_with_the_ranges(type_name: str, limits: tuple[int, int] | None, value: object) -> None:
    """A number column accepts exactly the finite numbers of its range, and only whole ones if its type is integer."""
    schema = single_column_schema(type_name, None if limits is None else sorted(map(float, limits)))
    (column,) = schema.columns
    low, high = TYPE_RANGES[type_name] if limits is None else sorted(limits)
    expected = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and low <= value <= high
        and (type_name in ("float", "double") or value == math.floor(value))
    )
    assert column.accepts(value) is expected


@given(st.sampled_from(["string", "boolean", *TYPE_RANGES]), SCALARS)
def test_optional_adds_only_null(type_name: str, value: object) -> None:
    """An optional column accepts what a required one accepts, and null."""
    required = single_column_schema(type_name).columns[0]
    optional = single_column_schema(type_name, required=False).columns[0]
    assert optional.accepts(value) is (value is None or required.accepts(value))
    assert Column("x", "string").accepts(value) is isinstance(value, str)
    assert Column("x", "boolean").accepts(value) is isinstance(value, bool)


# Small numbers, which most columns accept, and values that some types accept and others do not.
VALUES = st.integers(-60, 60) | st.integers(-60, 60).map(float) | SCALARS
EDGES = st.sampled_from(
    [0, -0.0, 0.5, -50, 50.0, 51, -51.0, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 10**400, -(10**400), 1e-300]
    + [factor * edge for widest in TYPE_RANGES.values() for edge in widest for factor in (1, 2)]
    + [math.nan, math.inf, -math.inf, True, False, None, "", "0"]
)


@st.composite
def schema_and_values(draw: st.DrawFn) -> tuple[InputSchema, list[object]]:
    """Draw columns of any type, some optional and some with a range, and a value for each."""
    types = draw(
        st.lists(st.sampled_from([*TYPE_RANGES, "string", "boolean"]) | st.just("long"), min_size=1, max_size=5)
    )
    inputs = [
        {"type": type_name, "name": f"c{i}", "required": draw(st.booleans())} for i, type_name in enumerate(types)
    ]
    ranges = {
        f"c{i}": [-50, 50] for i, type_name in enumerate(types) if type_name in TYPE_RANGES and draw(st.booleans())
    }
    values = draw(st.sampled_from([VALUES, VALUES | EDGES | JSON]))
    return schema_from_signature(inputs, ranges), [draw(values) for _ in types]


@given(schema_and_values())
def test_each_value_that_its_column_refuses_is_a_fault(case: tuple[InputSchema, list[object]]) -> None:
    """A row is parsed unchanged, in every form, if its columns accept all values; each refused value is a fault."""
    schema, values = case
    refused = [i for i, column in enumerate(schema.columns) if not column.accepts(values[i])]
    by_name = [schema.names[i] for i in refused]
    named = dict(zip(schema.names, values, strict=True))
    forms: list[tuple[object, str, Sequence[object]]] = [
        (named, "#", by_name),
        (dict(reversed(named.items())), "#", by_name),
        ({"features": values}, "#/features", refused),
        ({"instances": [values]}, "#/instances/0", refused),
        ({"instances": [named]}, "#/instances/0", by_name),
    ]
    for document, pointer, tokens in forms:
        result = parse_or_error(schema, document)
        if isinstance(result, InvalidRows):
            assert [fault.pointer for fault in result.faults] == [f"{pointer}/{token}" for token in tokens]
            assert tokens
        else:
            assert not tokens
            (row,) = result.values
            assert all(parsed is sent for parsed, sent in zip(row, values, strict=True))
            assert len(schema.to_rows(result.values)) == 1


@pytest.mark.parametrize("missing", [["slope"], ["elevation", "soil_type"], list(GOOD)])
def test_unknown_key_instead_of_a_feature_is_refused(missing: list[str]) -> None:
    """A row with the right number of keys but unknown ones among them gives faults for unknown and missing keys."""
    document = {name if name not in missing else f"other {name}": value for name, value in GOOD.items()}
    assert len(document) == len(GOOD)
    assert {detail.split(";")[0] for _, detail in faults_of(COVERTYPE, document)} == {
        "is not a feature of this model",
        "is missing",
    }
    assert len(faults_of(COVERTYPE, document)) == 2 * len(missing)


def test_parsed_rows_do_not_alias_the_document() -> None:
    """Changing a list in the document after parsing does not change the parsed rows."""
    document = {"features": [2596, 3, 29]}
    request = COVERTYPE.parse(document, 1)
    document["features"][0] = 0
    assert request.values == [[2596, 3, 29]]


def test_first_of_two_table_columns_with_the_same_name_counts() -> None:
    """The first of two table columns with the same name is read, and faults point to it."""
    table = RowTable(["x", "y", "x"], [[1, 2, "no number"]], "#", lambda i, j: f"#/{i}/{j}")
    assert single_column_schema("double").parse_table(table, 1) == [[1]]
    with pytest.raises(InvalidRows) as caught:
        single_column_schema("string").parse_table(table, 1)
    assert [fault.pointer for fault in caught.value.faults] == ["#/0/0"]


def test_rows_of_several_requests_form_one_array() -> None:
    """Rows of several requests are combined into one array, each as it would be alone."""
    first, second = (COVERTYPE.parse({"features": [elevation, 3, 29]}, 1).values for elevation in (2000, 3000))
    assert COVERTYPE.to_rows([*first, *second]).numbers.tolist() == [[2000, 3, 29], [3000, 3, 29]]
    homes = [*MIXED.parse(HOME, 1).values, *MIXED.parse(HOME | {"rooms": 3, "note": "n"}, 1).values]
    rows = MIXED.to_rows(homes)
    assert len(rows) == 2
    assert rows.objects.tolist() == [["Oslo", None], ["Oslo", "n"]]
    assert np.array_equal(rows.numbers, [[71.5, 1, math.nan, math.nan], [71.5, 1, 3, math.nan]], equal_nan=True)
