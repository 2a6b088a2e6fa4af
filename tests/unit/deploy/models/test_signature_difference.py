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
def compare(tmp_path: Path) -> Compare:
    """A function that writes two models with these signatures and returns the difference between them."""

    def compare_models(served: Any, candidate: Any) -> str | None:
        folders = (write_model(tmp_path / name, signature=signature)
                   for name, signature in (("served", served), ("candidate", candidate)))  # fmt: skip
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
        ([DEPTH], [DEPTH | {"required": False}], "column depth is optional double, and was double"),
        ([DEPTH | {"required": False}], [DEPTH], "column depth is double, and was optional double"),
        ([DEPTH, SOIL], [SOIL, DEPTH], "its columns are in a different order"),
    ],
)
def test_changed_input_columns_are_named(compare: Compare, served: Columns, candidate: Columns, message: str) -> None:
    """Columns that are missing, new, of another type or in another order are named."""
    assert compare(signature_of(served), signature_of(candidate)) == message


def test_order_is_not_reported_if_a_column_is_missing(compare: Compare) -> None:
    """A missing column is the only difference that is reported, although the columns after it move up."""
    assert compare(signature_of([DEPTH, SOIL]), signature_of([SOIL])) == "column depth is missing"


@pytest.mark.parametrize(
    ("served", "candidate", "message"),
    [
        ([LABEL], [SOIL | {"name": "class"}], "output 0 is missing; output class is new"),
        ([LABEL], [LABEL | {"type": "string"}], "output 0 is string, and was long"),
        ([LABEL], [LABEL, LABEL], "output 1 is new"),
        ([tensor("int64")], [tensor("str")], "output 0 is str, and was int64"),
        ([tensor("int64")], [LABEL], "output 0 is long, and was int64"),
        ([tensor("int64")], [tensor("int64", 2)], "output 0 is int64 of shape (2,) per row, and was int64"),
    ],
)
def test_changed_outputs_are_named_or_numbered(
    compare: Compare, served: Columns, candidate: Columns, message: str
) -> None:
    """Outputs are compared as inputs are: by name, or by index if they have no name."""
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
