"""A fitted pipeline converted to ONNX, for the ``onnx`` engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skl2onnx
from skl2onnx.common import data_types

from deploy.models.compile.features import NotCompilable
from server.engines import onnx
from server.engines.onnx import ALL_COLUMNS, OnnxEngine
from server.errors import first_line
from server.inference.columns import Column
from server.inference.schema import InputSchema

_TENSORS = {
    "double": data_types.DoubleTensorType,
    "float": data_types.FloatTensorType,
    "long": data_types.Int64TensorType,
    "boolean": data_types.BooleanTensorType,
    "string": data_types.StringTensorType,
}


@dataclass(frozen=True, slots=True)
class Converted:
    """A pipeline as a serialized ONNX model, with the parameters of :class:`server.engines.onnx.OnnxEngine`.

    ``inputs`` has the precision or type of each input tensor by its name. ``classes`` is None for a regressor.
    """

    code: bytes
    inputs: Mapping[str, str]
    classes: list[Any] | None

    def save(self, folder: Path) -> None:
        """Write the model into ``folder``, which must not exist."""
        folder.mkdir()
        (folder / "model.onnx").write_bytes(self.code)
        (folder / "onnx.json").write_text(json.dumps({"inputs": self.inputs, "classes": self.classes}))

    def engine(self, schema: InputSchema) -> OnnxEngine:
        """Return an engine that predicts with the converted model."""
        return onnx.create_engine(self.code, schema, self.inputs, self.classes)


def conversions(estimator: Any, schema: InputSchema) -> Iterator[Converted]:
    """Yield the pipeline converted with 64-bit floats, then with 32-bit floats, leaving out a failed conversion.

    Raises:
        NotCompilable: both conversions failed, with skl2onnx's reason.
    """
    for column in schema.columns:
        if reason := _obstacle(column):
            raise NotCompilable(f"column {column.name!r} {reason}")
    if hasattr(estimator, "classes_") and not hasattr(estimator, "predict_proba"):
        raise NotCompilable(f"the classifier {type(estimator).__name__} has no probabilities")
    reasons = []
    for precision in ("double", "float"):
        try:
            converted = _convert(estimator, schema, precision)
            converted.engine(schema)  # ONNX Runtime may lack operators that skl2onnx writes.
        except Exception as error:  # skl2onnx and ONNX Runtime raise errors of many unrelated classes.
            reasons.append(first_line(error).partition(" and attributes")[0])
        else:
            yield converted
    if len(reasons) == 2:
        raise NotCompilable(f"the conversion to ONNX failed: {reasons[-1]}")


def _obstacle(column: Column) -> str | None:
    if not column.required:
        return "is optional, and the check has no rows with missing values"
    if not (column.is_number or column.is_string):
        reason = "has no type" if column.type == "any" else f"has the type {column.type}"
        return f"{reason}, and an ONNX model needs numbers or strings"
    return None


def _convert(estimator: Any, schema: InputSchema, precision: str) -> Converted:
    inputs = _inputs(estimator, schema, precision)
    shape = [None, len(schema.columns) if ALL_COLUMNS in inputs else 1]
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    is_classifier = hasattr(estimator, "classes_")
    model = skl2onnx.to_onnx(
        estimator,
        initial_types=[(name, _TENSORS[type_name](shape)) for name, type_name in inputs.items()],
        options={id(final): {"zipmap": False}} if is_classifier else None,
    )
    return Converted(model.SerializeToString(), inputs, estimator.classes_.tolist() if is_classifier else None)


def _inputs(estimator: Any, schema: InputSchema, precision: str) -> dict[str, str]:
    """Return one tensor per column if the pipeline selects columns by name, else one tensor for all columns."""
    if not hasattr(estimator, "feature_names_in_"):
        return {ALL_COLUMNS: precision}
    tensor_types = {"integer": "long", "long": "long", "boolean": "boolean", "string": "string"}
    return {column.name: tensor_types.get(column.type, precision) for column in schema.columns}
