"""What a client would notice of another model's signature, read from folders as MLflow writes them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.tree_folder import write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
    from deploy.models.signature_difference import difference

Columns = list[dict[str, Any]]
Compare = Callable[[Any, Any], str | None]

DEPTH = {"type": "double", "name": "depth", "required": True}
SOIL = {"type": "string", "name": "soil", "required": True}
WHOLE = {"type": "long", "required": True}


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}


def signed(inputs: Columns, outputs: Columns | None = None) -> dict[str, str]:
    told = {"inputs": json.dumps(inputs)}
    return told if outputs is None else told | {"outputs": json.dumps(outputs)}


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """The difference of two models with these signatures."""

    def one(served: Any, candidate: Any) -> str | None:
        folders = (write_model(tmp_path / name, signature=signature)
                   for name, signature in (("served", served), ("candidate", candidate)))  # fmt: skip
        return difference(*folders)

    return one


@pytest.mark.parametrize(
    "signature",
    [
        signed([DEPTH, SOIL]),
        signed([DEPTH], [WHOLE]),
        signed([DEPTH], [tensor("int64")]),
        signed([SOIL | {"name": "é"}]),
    ],
)
def test_equal_signatures_do_not_differ(compare: Compare, signature: Any) -> None:
    """Two models of one signature do not differ."""
    assert compare(signature, signature) is None


@pytest.mark.parametrize(
    ("served", "candidate", "told"),
    [
        ([DEPTH, SOIL], [DEPTH], "it has no column soil"),
        ([DEPTH], [DEPTH, SOIL], "it has the new column soil"),
        ([DEPTH], [DEPTH, SOIL | {"required": False}], "it has the new column soil"),
        ([DEPTH], [DEPTH | {"name": "height"}], "it has no column depth; it has the new column height"),
        ([DEPTH], [DEPTH | {"type": "float"}], "column depth is float, and was double"),
        ([DEPTH], [DEPTH | {"required": False}], "column depth is optional double, and was double"),
        ([DEPTH | {"required": False}], [DEPTH], "column depth is double, and was optional double"),
        ([DEPTH, SOIL], [SOIL, DEPTH], "its columns are in another order"),
    ],
)
def test_changed_input_columns_are_named(compare: Compare, served: Columns, candidate: Columns, told: str) -> None:
    """Columns that went, came, changed what they take or moved are each named."""
    assert compare(signed(served), signed(candidate)) == told


def test_order_is_told_by_itself_alone(compare: Compare) -> None:
    """Where a column went, that the others moved up says nothing more."""
    assert compare(signed([DEPTH, SOIL]), signed([SOIL])) == "it has no column depth"


@pytest.mark.parametrize(
    ("served", "candidate", "told"),
    [
        ([WHOLE], [SOIL | {"name": "class"}], "it has no output 0; it has the new output class"),
        ([WHOLE], [WHOLE | {"type": "string"}], "output 0 is string, and was long"),
        ([WHOLE], [WHOLE, WHOLE], "it has the new output 1"),
        ([tensor("int64")], [tensor("str")], "output 0 is str, and was int64"),
        ([tensor("int64")], [WHOLE], "output 0 is long, and was int64"),
        ([tensor("int64")], [tensor("int64", 2)], "output 0 is int64 of shape (2,) a row, and was int64"),
    ],
)
def test_changed_outputs_are_named_or_numbered(
    compare: Compare, served: Columns, candidate: Columns, told: str
) -> None:
    """What comes out is compared as what goes in, with names or by its place."""
    assert compare(signed([DEPTH], served), signed([DEPTH], candidate)) == told


@pytest.mark.parametrize("outputs", [(None, [WHOLE]), ([WHOLE], None), (None, None)])
def test_undeclared_outputs_do_not_differ(compare: Compare, outputs: tuple[Columns | None, Columns | None]) -> None:
    """A model that was logged without outputs does not differ in them."""
    before, after = outputs
    assert compare(signed([DEPTH], before), signed([DEPTH], after)) is None


def test_difference_lists_inputs_and_outputs_in_one_line(compare: Compare) -> None:
    """Everything is told in one line, inputs first."""
    told = compare(signed([DEPTH], [WHOLE]), signed([SOIL], [WHOLE | {"type": "string"}]))
    assert told == "it has no column depth; it has the new column soil; output 0 is string, and was long"


def test_missing_signature_differs_from_a_signature(compare: Compare) -> None:
    """A signature differs from none."""
    assert compare(signed([DEPTH]), None) == "one of the two has no signature"


def test_two_missing_signatures_do_not_differ(compare: Compare) -> None:
    """Where there is none, none differs."""
    assert compare(None, None) is None
