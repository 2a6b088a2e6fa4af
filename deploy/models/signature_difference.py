"""The difference between the signatures of two models, described for a user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import Model
from mlflow.types.schema import Schema


def describe_difference(served: Path, candidate: Path) -> str | None:
    """Describe how the signature of the model in ``candidate`` differs from that in ``served``; None if it does not.

    Outputs are compared only if both signatures declare them.
    """
    old, new = (Model.load(str(folder)).signature for folder in (served, candidate))
    if old is None or new is None:
        return None if old is new else f"the {'served' if old is None else 'new'} model has no signature"
    inputs = _differences("column", _columns(old.inputs), _columns(new.inputs))
    outputs = _differences("output", _columns(old.outputs), _columns(new.outputs))
    return "; ".join(inputs + (outputs if old.outputs and new.outputs else [])) or None


def _columns(schema: Schema | None) -> dict[str, str]:
    """Return the type of each column, by its name or, without one, by its index."""
    columns: list[dict[str, Any]] = [] if schema is None else schema.to_dict()
    return {str(column.pop("name", index)): _column_type(column) for index, column in enumerate(columns)}


def _column_type(column: dict[str, Any]) -> str:
    text = _tensor_type(column["tensor-spec"]) if "tensor-spec" in column else str(column["type"])
    return text if column.get("required", True) else f"optional {text}"


def _tensor_type(spec: dict[str, Any]) -> str:
    row_shape = tuple(spec["shape"][1:])  # the first dimension counts the rows
    return f"{spec['dtype']} of shape {row_shape} per row" if row_shape else str(spec["dtype"])


def _differences(noun: str, old: dict[str, str], new: dict[str, str]) -> list[str]:
    differences = [f"{noun} {name} is missing" for name in old if name not in new]
    differences += [f"{noun} {name} is new" for name in new if name not in old]
    differences += [
        f"{noun} {name} is {new[name]}, and was {old_type}"
        for name, old_type in old.items()
        if name in new and new[name] != old_type
    ]
    if not differences and list(old) != list(new):
        return [f"its {noun}s are in a different order"]
    return differences
