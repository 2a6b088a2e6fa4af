"""Tests of a model's inference parameters: which values of a request they accept, and what the model gets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from server.errors import InvalidRows, ModelError
from server.inference.columns import Policy
from server.inference.parameters import NO_PARAMETERS, Parameters

BOTH = pytest.mark.parametrize("policy", Policy)
SPEC = {
    "type": "object",
    "properties": {"depth": {"type": "long"}, "note": {"type": "string", "required": False}},
}
PARAMS: list[dict[str, Any]] = [
    {"name": "top", "type": "long", "default": 3, "shape": None},
    {"name": "size", "type": "integer", "default": 3, "shape": None},
    {"name": "rate", "type": "double", "default": 0.5, "shape": None},
    {"name": "narrow", "dtype": "float", "default": 0.5},
    {"name": "mode", "type": "string", "default": "fast", "shape": None},
    {"name": "exact", "type": "boolean", "default": False, "shape": None},
    {"name": "since", "type": "datetime", "default": "2024-01-01T00:00:00", "shape": None},
    {"name": "stops", "type": "string", "default": ["a"], "shape": [-1]},
    {"name": "days", "type": "datetime", "default": [], "shape": [-1]},
    {"name": "weights", "type": "double", "default": [1.0], "shape": [-1]},
    {"name": "tree", **SPEC, "default": {"depth": 1}, "shape": None},
]
PARAMETERS = Parameters.from_signature(PARAMS)


def faults_of(params: object, policy: Policy = Policy.STRICT) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRows) as caught:
        PARAMETERS.parse(params, "#/params", policy)
    assert caught.value.status == 422
    return [(fault.pointer, fault.detail) for fault in caught.value.faults]


def test_signature_declares_types_and_defaults() -> None:
    """The parameters of a signature have their names, types and defaults, whichever key has the type."""
    assert [(parameter.name, parameter.column.type, parameter.is_list) for parameter in PARAMETERS.declared] == [
        ("top", "long", False),
        ("size", "integer", False),
        ("rate", "double", False),
        ("narrow", "float", False),
        ("mode", "string", False),
        ("exact", "boolean", False),
        ("since", "datetime", False),
        ("stops", "string", True),
        ("days", "datetime", True),
        ("weights", "double", True),
        ("tree", "object", False),
    ]
    assert [parameter.default for parameter in PARAMETERS.declared[:3]] == [3, 3, 0.5]


@pytest.mark.parametrize("params", [None, []])
def test_signature_without_parameters_declares_none(params: Any) -> None:
    """A signature without parameters, or with none, declares none."""
    assert Parameters.from_signature(params) == NO_PARAMETERS


def test_unsupported_type_stops_the_start() -> None:
    """A parameter of an unknown type, or that is no object, cannot be served."""
    for params in ([{"name": "x", "type": "sparse", "default": 1}], [{"name": "x", "default": 1}]):
        with pytest.raises(ModelError, match="the type"):
            Parameters.from_signature(params)
    with pytest.raises(ModelError, match="has the parameter 'x'; expected an object"):
        Parameters.from_signature(["x"])  # type: ignore[list-item]


@BOTH
@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("top", 5, 5),
        ("top", 2**62, 2**62),
        ("top", None, None),
        ("size", -(2**31), -(2**31)),
        ("rate", 2, 2.0),
        ("rate", 2.5, 2.5),
        ("narrow", 1, 1.0),
        ("mode", "", ""),
        ("mode", None, None),
        ("exact", True, True),
        ("since", "2024-01-31", datetime(2024, 1, 31)),
        ("since", "2024-01-31T12:00:00.5+02:00", datetime(2024, 1, 31, 10, 0, 0, 500_000)),
        ("stops", [], []),
        ("stops", ["a", "b"], ["a", "b"]),
        ("days", ["2024-01-31"], [datetime(2024, 1, 31)]),
        ("weights", [1, 2.5], [1.0, 2.5]),
        ("tree", {"depth": 3}, {"depth": 3}),
        ("tree", {"depth": 3, "note": None}, {"depth": 3, "note": None}),
    ],
)
def test_value_is_passed_in_the_type_of_the_parameter(policy: Policy, name: str, value: object, parsed: object) -> None:
    """The model gets Python values as MLflow passes them: whole numbers as floats where due, dates as datetime."""
    ((parsed_name, result),) = PARAMETERS.parse({name: value}, "#/params", policy)
    assert (parsed_name, result) == (name, parsed)
    assert repr(result) == repr(parsed)


@BOTH
@pytest.mark.parametrize(
    ("name", "value", "place", "detail"),
    [
        ("top", 2.0, "", "must be a whole number, got 2"),
        ("top", "2", "", 'must be a whole number, got "2"'),
        ("top", True, "", "must be a whole number, got true"),
        ("top", [2], "", "must be a whole number, got a list of 1"),
        ("top", 2**63, "", "must be a whole number from -9223372036854775808 to 9223372036854775807, got 92233720368"),
        ("size", 2**31, "", "must be a whole number from -2147483648 to 2147483647, got 2147483648"),
        ("rate", "0.5", "", 'must be a number, got "0.5"'),
        ("rate", True, "", "must be a number, got true"),
        ("mode", 3, "", "must be a string, got 3"),
        ("exact", 1, "", "must be true or false, got 1"),
        ("since", "2024-02-30", "", "must be a date or time in ISO 8601"),
        ("since", 3, "", "must be a date or time in ISO 8601"),
        ("stops", "a", "", 'must be a list, each item a string, got "a"'),
        ("stops", None, "", "must be a list, each item a string, got null"),
        ("stops", ["a", 3], "/1", "must be a string, got 3"),
        ("stops", [["a"]], "/0", "must be a string, got a list of 1"),
        ("weights", [1, "2"], "/1", 'must be a number, got "2"'),
        ("tree", {"depth": 1.5}, "/depth", "must be a whole number, got 1.5"),
        ("tree", {}, "/depth", "is missing; must be a whole number"),
        ("tree", {"depth": 1, "a/b": 2}, "/a~1b", "is not a property of 'tree'"),
        ("tree", None, "", "must be an object, got null"),
        ("tree", [1], "", "must be an object, got a list of 1"),
    ],
)
def test_value_of_another_type_is_refused(policy: Policy, name: str, value: object, place: str, detail: str) -> None:
    """A value of another type is refused under both policies, as in MLflow, with its place."""
    ((pointer, found),) = faults_of({name: value}, policy)
    assert pointer == f"#/params/{name}{place}"
    assert found.startswith(detail)


def test_all_wrong_parameters_are_named() -> None:
    """The error names every wrong parameter in the order of the signature, and then every unknown one."""
    assert [pointer for pointer, _ in faults_of({"no": 1, "mode": 3, "top": "a"})] == [
        "#/params/top",
        "#/params/mode",
        "#/params/no",
    ]


def test_unknown_parameter_is_refused_only_under_the_strict_policy() -> None:
    """A parameter that the model does not declare is refused by /predict, and ignored elsewhere, as MLflow does."""
    assert faults_of({"a/b": 1}) == [
        (
            "#/params/a~1b",
            "is not a parameter of this model; expected days, exact, mode, narrow, rate, since, size, stops, top, "
            "tree, weights",
        )
    ]
    assert PARAMETERS.parse({"unknown": 1, "top": 2}, "#/params", Policy.LENIENT) == (("top", 2),)
    with pytest.raises(InvalidRows, match=r"params\.x is not a parameter of this model; it has none"):
        NO_PARAMETERS.parse({"x": 1}, "#/params", Policy.STRICT)
    assert NO_PARAMETERS.parse({"x": 1}, "#/params", Policy.LENIENT) == ()


@BOTH
@pytest.mark.parametrize("params", [3, "a", [1], [], False])
def test_parameters_must_be_an_object(policy: Policy, params: object) -> None:
    """Parameters that are not an object are refused under both policies."""
    ((pointer, detail),) = faults_of(params, policy)
    assert pointer == "#/params"
    assert detail.startswith("must be an object of parameters by name, got ")


@BOTH
def test_absent_parameters_are_left_to_the_model(policy: Policy) -> None:
    """Without parameters, or with null instead, none is passed, so that the model uses its defaults."""
    assert PARAMETERS.parse(None, "#/params", policy) == ()
    assert PARAMETERS.parse({}, "#/params", policy) == ()


def test_order_of_parameters_is_that_of_the_signature() -> None:
    """Parameters are in the order of the signature, so that equal ones are equal in any order."""
    assert PARAMETERS.parse({"rate": 1, "top": 2}, "#", Policy.STRICT) == (("top", 2), ("rate", 1.0))
