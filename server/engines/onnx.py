"""The ``onnx`` engine, which runs a pipeline converted to ONNX, without pickle, with the optional ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from server.engines import companion
from server.errors import CompanionRefused, first_line
from server.inference.rows import NO_OPTIONS, ClassProbabilities, Options, Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.mlmodel import MLmodel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# NumPy types of the tensors, by the names that the companion's file uses for them.
DTYPES = {"double": np.float64, "float": np.float32, "long": np.int64, "boolean": np.bool_, "string": np.object_}
# The only input of a pipeline that was fitted without column names, which takes all columns as one tensor.
ALL_COLUMNS = "X"


class OnnxEngine:
    """An engine for a converted pipeline.

    ``inputs`` has the tensor type of each column in the order of the session's inputs, whose names may differ from the
    columns', because ONNX does not allow all characters. ``classes`` is None for a regressor.
    """

    name = "onnx"
    uses_pandas = False

    def __init__(
        self, session: Any, schema: InputSchema, inputs: Mapping[str, str], classes: Sequence[Any] | None
    ) -> None:
        self._session = session
        self.schema = schema
        self._inputs = inputs
        self._names = dict(zip(inputs, (node.name for node in session.get_inputs()), strict=True))
        self._class_indices = None if classes is None else {label: index for index, label in enumerate(classes)}

    def predict(self, rows: Rows, options: Options = NO_OPTIONS) -> Prediction:
        """Return the labels and the probability of each; for a regressor, only the values."""
        tensors = self._session.run(None, self._input_tensors(rows))
        if self._class_indices is None:
            return Prediction(tensors[0].reshape(-1).tolist(), None)
        labels = tensors[0].tolist()
        indices = [self._class_indices[label] for label in labels]
        probabilities = (ClassProbabilities(tuple(self._class_indices), tensors[1]),) if options.probabilities else None
        return Prediction(labels, tensors[1][np.arange(len(indices)), indices].tolist(), None, probabilities)

    def outputs(self, rows: Rows) -> NDArray[np.float64]:
        """Return the probability of each class, n x classes; for a regressor, the value, n x 1."""
        tensors = self._session.run(None, self._input_tensors(rows))
        return np.asarray(tensors[self._class_indices is not None], np.float64).reshape(len(rows), -1)

    def _input_tensors(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return each input as an n x 1 tensor, or all columns as one tensor."""
        if ALL_COLUMNS in self._inputs:
            return {self._names[ALL_COLUMNS]: rows.numbers.astype(DTYPES[self._inputs[ALL_COLUMNS]])}
        numbers, objects = iter(rows.numbers.T), iter(rows.objects.T)
        columns = {c.name: next(numbers) if c.is_number else next(objects) for c in self.schema.columns}
        inputs = self._inputs.items()
        return {self._names[name]: columns[name].astype(DTYPES[dtype]).reshape(-1, 1) for name, dtype in inputs}


def load(mlmodel: MLmodel, _kernel_cache: Path | None = None) -> OnnxEngine:
    """Load the model's ONNX companion.

    Raises:
        CompanionRefused: the companion is not one of this model, does not load, or ONNX Runtime is not installed.
    """
    folder = companion.find(mlmodel, "onnx")
    try:
        header = json.loads((folder / "onnx.json").read_bytes())
        code = (folder / "model.onnx").read_bytes()
        return create_engine(code, companion.input_schema(mlmodel, "onnx"), header["inputs"], header["classes"])
    except ImportError:
        raise CompanionRefused("the model's companion for the engine onnx needs the package onnxruntime") from None
    except Exception as error:  # ONNX Runtime's errors have no common base class
        reason = first_line(error)
        raise CompanionRefused(f"the model's companion for the engine onnx does not load: {reason}") from error


def create_engine(
    code: bytes, schema: InputSchema, inputs: Mapping[str, str], classes: Sequence[Any] | None
) -> OnnxEngine:
    """Return an engine for a serialized ONNX model."""
    # Imported here, because the package is optional.
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    # With one thread, no thread pool is started, which would not survive the fork, and a worker has one CPU.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(code, options, providers=["CPUExecutionProvider"])
    return OnnxEngine(session, schema, inputs, classes)
