"""The difference between the signatures of two models, described for a user.

A signature that only widens is no difference: every request that the served model accepts, the candidate accepts too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.models import Model
from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

from server.inference.columns import show

# For each type of an input column, the other types that accept all of its values.
_WIDER_TYPES: Mapping[str, frozenset[str]] = {
    "integer": frozenset({"long", "float", "double"}),
    "long": frozenset({"double"}),
    "float": frozenset({"double"}),
}


@dataclass(frozen=True, slots=True)
class _Column:
    """An input or output of a signature; ``limits`` is the range that the model's metadata enforce for it, if any."""

    type: str
    required: bool
    limits: tuple[float, float] | None

    def __str__(self) -> str:
        text = self.type if self.required else f"optional {self.type}"
        return text if self.limits is None else f"{text} from {show(self.limits[0])} to {show(self.limits[1])}"

    def accepts_all_of(self, served: _Column) -> bool:
        """Return whether every value of the served column is valid for this one."""
        if self.required and not served.required:
            return False
        if self.type != served.type and self.type not in _WIDER_TYPES.get(served.type, ()):
            return False
        low, high = self.limits or (-math.inf, math.inf)
        served_low, served_high = served.limits or (-math.inf, math.inf)
        return low <= served_low and served_high <= high


def describe_other_columns(served: Sequence[str], candidate: Sequence[str]) -> str | None:
    """Describe how the columns of two models without signatures differ; None if they are the same, in this order."""
    untyped = _Column("any", required=True, limits=None)
    old, new = (dict.fromkeys(names, untyped) for names in (served, candidate))
    return "; ".join(_differences("column", old, new, _Column.accepts_all_of)) or None


def describe_difference(served: Path, candidate: Path) -> str | None:
    """Describe why clients of the model in ``served`` may not be answered by that in ``candidate``; None if they are.

    An input may become wider: of a type that accepts more, optional, or with a wider range or none. Outputs must be
    equal, and are compared only if both signatures declare them.
    """
    models = [Model.load(str(folder)) for folder in (served, candidate)]
    old, new = (model.signature for model in models)
    if old is None or new is None:
        return None if old is new else f"the {'served' if old is None else 'new'} model has no signature"
    old_ranges, new_ranges = ((model.metadata or {}).get("ranges") or {} for model in models)
    old_inputs, new_inputs = _columns(old.inputs, old_ranges), _columns(new.inputs, new_ranges)
    inputs = _differences("column", old_inputs, new_inputs, _Column.accepts_all_of)
    outputs = _differences("output", _columns(old.outputs, {}), _columns(new.outputs, {}), _Column.__eq__)
    return "; ".join(inputs + (outputs if old.outputs and new.outputs else [])) or None


def _columns(schema: Schema | None, ranges: Mapping[str, Any]) -> dict[str, _Column]:
    """Return each column, by its name or, without one, by its index."""
    specs: list[ColSpec | TensorSpec] = [] if schema is None else schema.inputs
    names = [str(index) if spec.name is None else str(spec.name) for index, spec in enumerate(specs)]
    return {
        name: _Column(_type_name(spec), spec.required, _limits(ranges.get(name)))
        for name, spec in zip(names, specs, strict=True)
    }


def _limits(value: object) -> tuple[float, float] | None:
    match value:
        case [int() | float() as low, int() | float() as high]:
            return low, high
    return None


def _type_name(spec: ColSpec | TensorSpec) -> str:
    if not isinstance(spec, TensorSpec):
        return str(spec.type.name if isinstance(spec.type, DataType) else spec.type)
    dtype, row_shape = spec.to_dict()["tensor-spec"]["dtype"], tuple(spec.shape[1:])  # the first dimension counts rows
    return f"{dtype} of shape {row_shape} per row" if row_shape else str(dtype)


def _differences(
    noun: str, old: Mapping[str, _Column], new: Mapping[str, _Column], is_compatible: Callable[[_Column, _Column], bool]
) -> list[str]:
    differences = [f"{noun} {name} is missing" for name in old if name not in new]
    differences += [f"{noun} {name} is new" for name in new if name not in old]
    differences += [
        f"{noun} {name} is {new[name]}, and was {old_column}"
        for name, old_column in old.items()
        if name in new and not is_compatible(new[name], old_column)
    ]
    if not differences and list(old) != list(new):
        return [f"its {noun}s are in a different order"]
    return differences
