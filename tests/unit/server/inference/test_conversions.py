"""Tests of the conversion of JSON values to dates, bytes, arrays and nested values, under both policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.columns import Column, Policy, parse_column, tensor_column
from server.inference.conversions import ValueMismatch, convert

BOTH = pytest.mark.parametrize("policy", Policy)
DATE = Column("when", "datetime")
BINARY = Column("data", "binary")


def column(spec: dict[str, Any]) -> Column:
    return parse_column(0, {"name": "x", **spec}, {})


def tensor(dtype: str, *shape: int) -> Column:
    return tensor_column("x", np.dtype(dtype), shape)


def mismatch(tested: Column, value: object, policy: Policy = Policy.STRICT) -> tuple[str, tuple[object, ...]]:
    """Return the detail of the error for a value, and the path to the part of it that is wrong."""
    with pytest.raises(ValueMismatch) as caught:
        convert(tested, value, policy)
    return caught.value.detail, caught.value.path


@BOTH
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-31", "2024-01-31T00:00:00"),
        ("2024-01-31T12:30", "2024-01-31T12:30:00"),
        ("2024-01-31 12:30:15.5", "2024-01-31T12:30:15.5"),
        ("2024-01-31T12:30:15.123456", "2024-01-31T12:30:15.123456"),
        ("2024-01-31T12:00:00Z", "2024-01-31T12:00:00"),
        ("2024-01-31T12:00:00+02:00", "2024-01-31T10:00:00"),
        ("2024-01-31T23:00:00-05:00", "2024-02-01T04:00:00"),
        ("1678-01-01", "1678-01-01T00:00:00"),
        ("2261-12-31T23:59:59.999999", "2261-12-31T23:59:59.999999"),
    ],
)
def test_date_becomes_a_time_in_utc(policy: Policy, text: str, moment: str) -> None:
    """A date or time in ISO 8601 becomes nanoseconds in UTC; without an offset it is in UTC already."""
    converted = convert(DATE, text, policy)
    assert isinstance(converted, np.datetime64)
    assert converted == np.datetime64(moment)
    assert converted.dtype == np.dtype("datetime64[ns]")


@BOTH
@pytest.mark.parametrize(
    "value", ["2024-02-30", "2024-13-01", "2024-01-31T25:00", "31.01.2024", "now", "", 1.5, True, None, [2024], {}]
)
def test_impossible_date_is_refused(policy: Policy, value: object) -> None:
    """A date that does not exist, and a value that is none, are refused with an example of a date."""
    detail, path = mismatch(DATE, value, policy)
    assert detail.startswith('must be a date or time in ISO 8601, such as "2024-01-31T12:00:00", got ')
    assert path == ()


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        *("1677-12-31T23:59:59", "2262-01-01", "0001-01-01", "9999-12-31", "1678-01-01T00:00:00+01:00"),
        *("2261-12-31T23:59:59-01:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_date_beyond_nanoseconds_is_refused(policy: Policy, text: str) -> None:
    """A time in whose year 64 bits cannot count nanoseconds is refused, also where the offset leads to such a year."""
    assert mismatch(DATE, text, policy) == (f'must be a date or time from 1678 to 2261, got "{text}"', ())


def test_lenient_number_counts_nanoseconds() -> None:
    """A whole number is a count of nanoseconds under the lenient policy, as in pandas, and no date otherwise."""
    assert convert(DATE, 1_706_659_200_000_000_000, Policy.LENIENT) == np.datetime64("2024-01-31")
    assert "must be a date" in mismatch(DATE, 1_706_659_200_000_000_000)[0]
    for number in (2**63, -(2**63)):
        assert "must be a date" in mismatch(DATE, number, Policy.LENIENT)[0]


def test_optional_date_may_be_null() -> None:
    """A missing optional date stays None."""
    assert convert(Column("when", "datetime", required=False), None, Policy.STRICT) is None


@BOTH
@pytest.mark.parametrize(
    ("text", "data"), [("", b""), ("YQ==", b"a"), ("YWJj\nZGVm\n", b"abcdef"), ("/+8=", b"\xff\xef")]
)
def test_base64_becomes_bytes(policy: Policy, text: str, data: bytes) -> None:
    """Text in base64 becomes bytes; line breaks, as Python writes them, are ignored."""
    assert convert(BINARY, text, policy) == data
    assert convert(BINARY, data, policy) == data  # from Parquet


@BOTH
@pytest.mark.parametrize("value", ["YQ", "YQ=", "Y", "%%%%", "_-8=", "ü===", "YQ==YQ==", 3, None, ["YQ=="]])
def test_invalid_base64_is_refused(policy: Policy, value: object) -> None:
    """Text that is not base64 with its padding, and any other value, are refused."""
    detail, path = mismatch(BINARY, value, policy)
    assert (detail.partition(",")[0], path) == ("must be a string in base64", ())


POINT = {
    "type": "object",
    "properties": {
        "at": {"type": "array", "items": {"type": "double"}},
        "label": {"type": "string", "required": False},
        "seen": {"type": "datetime", "required": False},
        "sizes": {"type": "map", "values": {"type": "long"}, "required": False},
    },
}
POINTS = column({"type": "array", "items": POINT})


@BOTH
def test_nested_values_are_checked_and_converted(policy: Policy) -> None:
    """Values inside lists, objects and maps are checked by their types, and dates inside them are converted."""
    point = {"at": [1, 2.5], "label": None, "seen": "2024-01-31", "sizes": {"a": 1}}
    assert convert(POINTS, [point, {"at": []}], policy) == [
        {**point, "seen": np.datetime64("2024-01-31", "ns")},
        {"at": []},
    ]


@BOTH
@pytest.mark.parametrize(
    ("value", "path", "detail"),
    [
        ({"at": [1]}, (), "must be a list, got an object"),
        (None, (), "must be a list, got null"),
        ([3], (0,), "must be an object, got 3"),
        ([{"at": [1]}, [1]], (1,), "must be an object, got a list of 1"),
        ([{"at": [1]}, {}], (1, "at"), "is missing; must be a list"),
        ([{"at": None}], (0, "at"), "must be a list, got null"),
        ([{"at": [1, "2"]}], (0, "at", 1), 'must be a number, got "2"'),
        ([{"at": [1, None]}], (0, "at", 1), "must be a number, got null"),
        ([{"at": [True]}], (0, "at", 0), "must be a number, got true"),
        ([{"at": [1], "label": 3}], (0, "label"), "must be a string, got 3"),
        ([{"at": [1], "colour": 3}], (0, "colour"), "is not a property of 'x'"),
        ([{"at": [1], "sizes": {"a": 1, "b/c": 1.5}}], (0, "sizes", "b/c"), "must be a whole number, got 1.5"),
        ([{"at": [1], "sizes": []}], (0, "sizes"), "must be an object, got a list of 0"),
        ([{"at": [1], "seen": "2024-02-30"}], (0, "seen"), 'must be a date or time in ISO 8601, such as "2024-01-31'),
    ],
)
def test_wrong_part_of_a_nested_value_is_found(
    policy: Policy, value: object, path: tuple[object, ...], detail: str
) -> None:
    """The error for a nested value has the path to the part that is wrong; MLflow does not convert such parts."""
    found, place = mismatch(POINTS, value, policy)
    assert found.startswith(detail)
    assert place == path


@BOTH
def test_nested_numbers_have_the_type_of_their_column(policy: Policy) -> None:
    """JSON does not tell 2.0 from 2, so a number inside a value becomes an int or a float as its type says."""
    spec = {"type": "object", "properties": {"n": {"type": "long"}, "x": {"type": "double"}, "any": {"type": "any"}}}
    assert repr(convert(column(spec), {"n": 2.0, "x": 2, "any": 2}, policy)) == "{'n': 2, 'x': 2.0, 'any': 2}"


@BOTH
@pytest.mark.parametrize("type_name", ["array", "map"])
def test_nested_type_without_items_takes_any(policy: Policy, type_name: str) -> None:
    """A list or a map whose items have no type takes any, and still must be a list or an object."""
    value: Any = [1, "a", None] if type_name == "array" else {"a": 1, "b": [None]}
    other: Any = {} if type_name == "array" else []
    tested = column({"type": type_name})
    assert convert(tested, value, policy) == value
    assert mismatch(tested, other, policy)[1] == ()


@BOTH
@pytest.mark.parametrize(
    ("tested", "value", "expected"),
    [
        (tensor("float64", 2), [1, 2.5], np.array([1.0, 2.5])),
        (tensor("float64", 2), [None, 2.5], np.array([np.nan, 2.5])),
        (tensor("float32", 2, 2), [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], np.float32)),
        (tensor("float32", -1, 2), [[1, 2]], np.array([[1, 2]], np.float32)),
        (tensor("float32", -1, 2), [], np.empty((0, 2), np.float32)),
        (tensor("float64", -1, -1), [[], []], np.empty((2, 0))),
        (tensor("uint8", 2), [0, 255], np.array([0, 255], np.uint8)),
        (tensor("uint8", 2), [0, 255.0], np.array([0, 255], np.uint8)),
        (tensor("int64", 1), [2**60 + 1], np.array([2**60 + 1])),
        (tensor("uint64", 2), [2**64 - 1, 0], np.array([2**64 - 1, 0], np.uint64)),
        (tensor("bool", 2), [True, False], np.array([True, False])),
        (tensor("str", 2), ["a", "longer"], np.array(["a", "longer"])),
        (tensor("bytes", 2), ["a", "ü"], np.array([b"a", "ü".encode()])),
        (tensor("object", 2), [None, "a"], np.array([None, "a"], object)),
        (tensor("datetime64[ns]", 1), ["2024-01-31T01:00+01:00"], np.array(["2024-01-31"], "datetime64[ns]")),
        (tensor("float64", 2), np.array([1.0, 2.0]), np.array([1.0, 2.0])),
    ],
)
def test_nested_lists_become_an_array(policy: Policy, tested: Column, value: object, expected: Any) -> None:
    """Nested lists become an array of the tensor's shape and dtype, with null as NaN and integers as floats."""
    array = convert(tested, value, policy)
    assert isinstance(array, np.ndarray)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(array, expected)


@BOTH
@pytest.mark.parametrize(
    ("tested", "value", "path", "detail"),
    [
        (tensor("float64", 2), 3, (), "must be a list of 2, got 3"),
        (tensor("float64", 2), [1], (), "must be a list of 2, got a list of 1"),
        (tensor("float64", 2), [1, [2]], (1,), "must be a single value, got a list of 1"),
        (tensor("float64", 2), [1, {}], (1,), "must be a single value, got an object"),
        (tensor("float64", 2, 2), [[1, 2], 3], (1,), "must be a list of 2, got 3"),
        (tensor("float64", 2, 2), [[1, 2], [3]], (1,), "must be a list of 2, got a list of 1"),
        (tensor("float64", -1, -1), [[1, 2], [3]], (1,), "must be a list of 2, got a list of 1"),
        (tensor("float64", -1, -1), [[1, 2], None], (1,), "must be a list of 2, got null"),
        (tensor("float64", -1), None, (), "must be a list, got null"),
        (tensor("float64", 2, 1), [[1], ["a"]], (1, 0), 'must be a number, got "a"'),
        (tensor("float32", 2), [1, 1e39], (1,), "must be a number from -3.4028234663852886e+38"),
        (tensor("float32", 2), [1, 10**39], (1,), "must be a number from -3.4028234663852886e+38"),
        (tensor("float16", 2), [1, 70000], (1,), "must be a number from -65504 to 65504, got 70000"),
        (tensor("uint8", 2), [1, 256], (1,), "must be a whole number from 0 to 255, got 256"),
        (tensor("uint8", 2), [1, -1], (1,), "must be a whole number from 0 to 255, got -1"),
        (tensor("uint8", 2), [1, None], (1,), "must be a whole number, got null"),
        (tensor("int64", 2), [1, 2**63], (1,), "must be a whole number from -9223372036854775808 to"),
        (tensor("int32", 2), [1, 1e300], (1,), "must be a whole number from -2147483648 to 2147483647, got 1e+300"),
        (tensor("bool", 2), [True, None], (1,), "must be true or false, got null"),
        (tensor("bool", 2), [True, "false"], (1,), 'must be true or false, got "false"'),
        (tensor("str", 2), ["a", None], (1,), "must be a string, got null"),
        (tensor("datetime64[ns]", 2), ["2024-01-31", "2024-02-30"], (1,), "must be a date or time"),
    ],
)
def test_wrong_element_of_a_tensor_is_found(
    policy: Policy, tested: Column, value: object, path: tuple[int, ...], detail: str
) -> None:
    """The error for a tensor has the path to the first list of a wrong length, or else to the first wrong value."""
    found, place = mismatch(tested, value, policy)
    assert found.startswith(detail)
    assert place == path


@pytest.mark.parametrize(
    ("tested", "value", "path", "converted"),
    [
        (tensor("float64", 2), [1, True], 1, [1.0, 1.0]),
        (tensor("float64", 2), [1, "2.5"], 1, [1.0, 2.5]),
        (tensor("uint8", 2), [True, 2], 0, [1, 2]),
        (tensor("uint8", 2), [1.5, 2], 0, [1, 2]),
        (tensor("int32", 2), ["3", 2], 0, [3, 2]),
        (tensor("bool", 2), [True, 0], 1, [True, False]),
        (tensor("bool", 2), [0.5, True], 0, [True, True]),
        (tensor("str", 2), ["a", 10], 1, ["a", "10"]),
        (tensor("str", 2), [True, "a"], 0, ["True", "a"]),
    ],
)
def test_only_the_lenient_policy_converts_elements(
    tested: Column, value: object, path: int, converted: list[object]
) -> None:
    """Elements of another type are refused under the strict policy, and converted as NumPy does under the lenient."""
    assert mismatch(tested, value)[1] == (path,)
    array = convert(tested, value, Policy.LENIENT)
    assert isinstance(array, np.ndarray)
    assert (array.dtype.kind, array.tolist()) == (np.dtype(tested.dtype).kind, converted)


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)  # JSON has no NaN
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=3)


@given(st.sampled_from(["f8", "f4", "f2", "i8", "u8", "u1", "i4", "?", "U", "O", "M8[ns]"]), st.data())
@BOTH
def test_array_agrees_with_its_elements(policy: Policy, dtype: str, data: st.DataObject) -> None:
    """A tensor accepts its elements if and only if its columns of single values do, within the integers of float64."""
    values = data.draw(st.lists(SCALARS, min_size=1, max_size=4))
    element = tensor(dtype)
    expected: list[object] = []
    try:
        expected = [convert(element, value, policy) for value in values]
    except ValueMismatch:
        if not any(type(value) in (int, float) and abs(value) > 2**53 for value in values):  # type: ignore[arg-type]
            assert "must be" in mismatch(tensor(dtype, len(values)), values, policy)[0]
        return
    array = convert(tensor(dtype, len(values)), values, policy)
    target = np.array([np.nan if value is None and element.nullable else value for value in expected], object)
    np.testing.assert_array_equal(array, target.astype(np.dtype(dtype)))
