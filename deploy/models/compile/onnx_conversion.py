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
from server.engines.onnx import ALL, OnnxEngine
from server.errors import first_line
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
    """A pipeline in ONNX, and what its engine has to know of it (:class:`server.engines.onnx.OnnxEngine`)."""

    code: bytes
    inputs: Mapping[str, str]
    classes: list[Any] | None

    def save(self, folder: Path) -> None:
        """Write it into ``folder``, which must not exist."""
        folder.mkdir()
        (folder / "model.onnx").write_bytes(self.code)
        (folder / "onnx.json").write_text(json.dumps({"inputs": self.inputs, "classes": self.classes}))

    def engine(self, schema: InputSchema) -> OnnxEngine:
        """What predicts with it."""
        return onnx.make(self.code, schema, self.inputs, self.classes)


def conversions(estimator: Any, schema: InputSchema) -> Iterator[Converted]:
    """The pipeline in 64 bits, where all its steps have such a form in ONNX, and in 32.

    Raises:
        NotCompilable: it has neither form, with skl2onnx's reason.
    """
    if optional := [column.name for column in schema.columns if not column.required]:
        raise NotCompilable(f"column {optional[0]!r} may be missing, which the check does not try")
    if hasattr(estimator, "classes_") and not hasattr(estimator, "predict_proba"):
        raise NotCompilable(f"the classifier {type(estimator).__name__} has no probabilities")
    faults = []
    for precision in ("double", "float"):
        try:
            converted = _convert(estimator, schema, precision)
            converted.engine(schema)  # what converts may still not load
        except Exception as error:  # skl2onnx and ONNX Runtime raise as many kinds as they have steps
            faults.append(first_line(error).partition(" and attributes")[0])
        else:
            yield converted
    if len(faults) == 2:
        raise NotCompilable(f"it does not convert to ONNX: {faults[-1]}")


def _convert(estimator: Any, schema: InputSchema, precision: str) -> Converted:
    inputs = _inputs(estimator, schema, precision)
    shape = [None, len(schema.columns) if ALL in inputs else 1]
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    is_classifier = hasattr(estimator, "classes_")
    model = skl2onnx.to_onnx(
        estimator,
        initial_types=[(name, _TENSORS[kind](shape)) for name, kind in inputs.items()],
        options={id(final): {"zipmap": False}} if is_classifier else None,
    )
    return Converted(model.SerializeToString(), inputs, estimator.classes_.tolist() if is_classifier else None)


def _inputs(estimator: Any, schema: InputSchema, precision: str) -> dict[str, str]:
    """One tensor a column where the pipeline finds its columns by name, else one for all."""
    if not hasattr(estimator, "feature_names_in_"):
        return {ALL: precision}
    kinds = {"integer": "long", "long": "long", "boolean": "boolean", "string": "string"}
    return {column.name: kinds.get(column.type, precision) for column in schema.columns}
