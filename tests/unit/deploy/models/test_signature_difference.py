"""Tests of the difference between two signatures, read from model folders as MLflow writes them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.tree_folder import write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    from deploy.models.signature_difference import describe_difference

Columns = list[dict[str, Any]]
Compare = Callable[[Any, Any], str | None]

DEPTH = {"type": "double", "name": "depth", "required": True}
SOIL = {"type": "string", "name": "soil", "required": True}
LABEL = {"type": "long", "required": True}


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}


def signature_of(inputs: Columns, outputs: Columns | None = None) -> dict[str, str]:
    signature = {"inputs": json.dumps(inputs)}
    return signature if outputs is None else signature | {"outputs": json.dumps(outputs)}


@pytest.fixture
def compare(tmp_path_factory: pytest.TempPathFactory) -> Compare:
    """A function that writes two models with these signatures and returns the difference between them."""

    def compare_models(served: Any, candidate: Any) -> str | None:
        return describe_difference(*(write_model(tmp_path_factory.mktemp("model") / "model", signature=signature)
                                     for signature in (served, candidate)))  # fmt: skip

    return compare_models


@pytest.fixture
def compare_ranges(tmp_path: Path) -> Compare:
    """A function that writes two models with these enforced ranges and returns the difference between them."""

    def compare_models(served: Any, candidate: Any) -> str | None:
        signature = signature_of([DEPTH], [LABEL])
        folders = (write_model(tmp_path / name, signature=signature, metadata={"ranges": ranges})
                   for name, ranges in (("served", served), ("candidate", candidate)))  # fmt: skip
        return describe_difference(*folders)

    return compare_models


@pytest.mark.parametrize(
    "signature",
    [
        signature_of([DEPTH, SOIL]),
        signature_of([DEPTH], [LABEL]),
        signature_of([DEPTH], [tensor("int64")]),
        signature_of([SOIL | {"name": "é"}]),
    ],
)
def test_equal_signatures_do_not_differ(compare: Compare, signature: Any) -> None:
    """Two models with the same signature do not differ."""
    assert compare(signature, signature) is None


@pytest.mark.parametrize(
    ("served", "candidate", "message"),
    [
        ([DEPTH, SOIL], [DEPTH], "column soil is missing"),
        ([DEPTH], [DEPTH, SOIL], "column soil is new"),
        ([DEPTH], [DEPTH, SOIL | {"required": False}], "column soil is new"),
        ([DEPTH], [DEPTH | {"name": "height"}], "column depth is missing; column height is new"),
        ([DEPTH], [DEPTH | {"type": "float"}], "column depth is float, and was double"),
        ([DEPTH | {"required": False}], [DEPTH], "column depth is double, and was optional double"),
        ([DEPTH, SOIL], [SOIL, DEPTH], "its columns are in a different order"),
    ],
)
def test_changed_input_columns_are_named(compare: Compare, served: Columns, candidate: Columns, message: str) -> None:
    """Columns that are missing, new, of a narrower type or in another order are named."""
    assert compare(signature_of(served), signature_of(candidate)) == message


def column(type_name: str, required: bool = True) -> dict[str, Any]:
    return {"type": type_name, "name": "depth", "required": required}


@pytest.mark.parametrize(
    ("served", "candidate"),
    [
        (column("integer"), column("long")),
        (column("integer"), column("float")),
        (column("integer"), column("double")),
        (column("long"), column("double")),
        (column("float"), column("double")),
        (column("double"), column("double", required=False)),
        (column("long"), column("double", required=False)),
    ],
)
def test_wider_column_is_accepted_and_its_reverse_refused(compare: Compare, served: Any, candidate: Any) -> None:
    """A column of a type that accepts more values, or that is optional, is no difference; a narrower one is."""
    assert compare(signature_of([served]), signature_of([candidate])) is None
    names = [f"{'' if each['required'] else 'optional '}{each['type']}" for each in (served, candidate)]
    message = f"column depth is {names[0]}, and was {names[1]}"
    assert compare(signature_of([candidate]), signature_of([served])) == message


@pytest.mark.parametrize(
    ("served", "candidate", "message"),
    [
        ("long", "float", "column depth is float, and was long"),
        ("boolean", "double", "column depth is double, and was boolean"),
        ("string", "double", "column depth is double, and was string"),
        ("double", "string", "column depth is string, and was double"),
    ],
)
def test_type_that_does_not_hold_all_values_is_refused(
    compare: Compare, served: str, candidate: str, message: str
) -> None:
    """A column of a type that does not hold every value of the served one is a difference."""
    assert compare(signature_of([column(served)]), signature_of([column(candidate)])) == message


def test_array_of_another_type_is_refused(compare: Compare) -> None:
    """An array column whose items have another type is a difference."""
    signatures = [signature_of([DEPTH | {"type": "array", "items": {"type": name}}]) for name in ("long", "string")]
    assert compare(*signatures) == "column depth is Array(string), and was Array(long)"


@pytest.mark.parametrize("ranges", [{"depth": [0, 9]}, {"depth": [-1, 9.5]}, {}, None])
def test_wider_range_is_accepted(compare_ranges: Compare, ranges: Any) -> None:
    """A range that contains the served one, and no range at all, are no difference."""
    assert compare_ranges({"depth": [0, 9]}, ranges) is None


@pytest.mark.parametrize(
    ("served", "candidate", "message"),
    [
        ([0, 9], [1, 9], "column depth is double from 1 to 9, and was double from 0 to 9"),
        ([0, 9], [0, 8.5], "column depth is double from 0 to 8.5, and was double from 0 to 9"),
        ([0, 9], [10, 20], "column depth is double from 10 to 20, and was double from 0 to 9"),
        (None, [0, 9], "column depth is double from 0 to 9, and was double"),
    ],
)
def test_narrower_range_is_refused(compare_ranges: Compare, served: Any, candidate: Any, message: str) -> None:
    """A range that excludes values that the served model accepts is a difference that names both ranges."""
    assert compare_ranges({"depth": served} if served else None, {"depth": candidate}) == message


def test_order_is_not_reported_if_a_column_is_missing(compare: Compare) -> None:
    """A missing column is the only difference that is reported, although the columns after it move up."""
    assert compare(signature_of([DEPTH, SOIL]), signature_of([SOIL])) == "column depth is missing"


@pytest.mark.parametrize(
    ("served", "candidate", "message"),
    [
        ([LABEL], [SOIL | {"name": "class"}], "output 0 is missing; output class is new"),
        ([LABEL], [LABEL | {"type": "string"}], "output 0 is string, and was long"),
        ([LABEL], [LABEL | {"type": "double"}], "output 0 is double, and was long"),
        ([LABEL], [LABEL, LABEL], "output 1 is new"),
        ([tensor("int64")], [tensor("str")], "output 0 is str, and was int64"),
        ([tensor("int64")], [LABEL], "output 0 is long, and was int64"),
        ([tensor("int64")], [tensor("int64", 2)], "output 0 is int64 of shape (2,) per row, and was int64"),
    ],
)
def test_changed_outputs_are_named_or_numbered(
    compare: Compare, served: Columns, candidate: Columns, message: str
) -> None:
    """An output of another type, wider ones too, is named or, without a name, numbered."""
    assert compare(signature_of([DEPTH], served), signature_of([DEPTH], candidate)) == message


@pytest.mark.parametrize("outputs", [(None, [LABEL]), ([LABEL], None), (None, None)])
def test_undeclared_outputs_do_not_differ(compare: Compare, outputs: tuple[Columns | None, Columns | None]) -> None:
    """Outputs that only one of the signatures declares are not a difference."""
    served, candidate = outputs
    assert compare(signature_of([DEPTH], served), signature_of([DEPTH], candidate)) is None


def test_difference_lists_inputs_and_outputs_in_one_line(compare: Compare) -> None:
    """All differences are listed in one line, inputs first."""
    message = compare(signature_of([DEPTH], [LABEL]), signature_of([SOIL], [LABEL | {"type": "string"}]))
    assert message == "column depth is missing; column soil is new; output 0 is string, and was long"


@pytest.mark.parametrize(
    ("served", "candidate", "message"),
    [
        (signature_of([DEPTH]), None, "the new model has no signature"),
        (None, signature_of([DEPTH]), "the served model has no signature"),
    ],
)
def test_model_without_a_signature_is_named(compare: Compare, served: Any, candidate: Any, message: str) -> None:
    """If only one of the models has a signature, the message says which one has none."""
    assert compare(served, candidate) == message


def test_two_missing_signatures_do_not_differ(compare: Compare) -> None:
    """Two models without signatures do not differ."""
    assert compare(None, None) is None
