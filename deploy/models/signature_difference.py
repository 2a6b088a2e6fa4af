"""How the signature of one model differs from that of another, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import Model
from mlflow.types.schema import Schema


def difference(served: Path, candidate: Path) -> str | None:
    """What a client of the model in one folder would notice of the one in the other; None if nothing.

    A model that was logged without outputs says nothing of them, and does not differ in them.
    """
    before, after = (Model.load(str(folder)).signature for folder in (served, candidate))
    if before is None or after is None:
        return None if before is after else "one of the two has no signature"
    inputs = _differences("column", _columns(before.inputs), _columns(after.inputs))
    outputs = _differences("output", _columns(before.outputs), _columns(after.outputs))
    return "; ".join(inputs + (outputs if before.outputs and after.outputs else [])) or None


def _columns(schema: Schema | None) -> dict[str, str]:
    """Each column's name, or its place where it has none, and what may be in it."""
    described: list[dict[str, Any]] = [] if schema is None else schema.to_dict()
    return {str(column.pop("name", place)): _kind(column) for place, column in enumerate(described)}


def _kind(column: dict[str, Any]) -> str:
    kind = _tensor(column["tensor-spec"]) if "tensor-spec" in column else str(column["type"])
    return kind if column.get("required", True) else f"optional {kind}"


def _tensor(spec: dict[str, Any]) -> str:
    """Its first dimension is that of the rows."""
    each = tuple(spec["shape"][1:])
    return f"{spec['dtype']} of shape {each} a row" if each else str(spec["dtype"])


def _differences(word: str, before: dict[str, str], after: dict[str, str]) -> list[str]:
    found = [f"it has no {word} {name}" for name in before if name not in after]
    found += [f"it has the new {word} {name}" for name in after if name not in before]
    found += [
        f"{word} {name} is {after[name]}, and was {kind}"
        for name, kind in before.items()
        if name in after and after[name] != kind
    ]
    if not found and list(before) != list(after):
        return [f"its {word}s are in another order"]
    return found
