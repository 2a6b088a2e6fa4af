"""The ``onnx`` engine: a pipeline converted to ONNX, run by ONNX Runtime, an optional package. No pickle is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from server.engines import companion
from server.errors import CompanionRefused, first_line
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.mlmodel import MLmodel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# ONNX's tensors by the names that the companion uses for them.
DTYPES = {"double": np.float64, "float": np.float32, "long": np.int64, "boolean": np.bool_, "string": np.object_}
# The one input of a pipeline that was fitted without names, and takes all columns at once.
ALL = "X"


class OnnxEngine:
    """A converted pipeline.

    ``inputs`` has the tensor type of each column, in the order of the session's inputs, whose own names lack what ONNX
    allows in none; ``classes`` is None for a regressor.
    """

    name = "onnx"
    uses_pandas = False

    def __init__(
        self, session: Any, schema: InputSchema, inputs: Mapping[str, str], classes: Sequence[Any] | None
    ) -> None:
        self._session = session
        self._schema = schema
        self._inputs = inputs
        self._names = dict(zip(inputs, (one.name for one in session.get_inputs()), strict=True))
        self._places = None if classes is None else {label: place for place, label in enumerate(classes)}

    def predict(self, rows: Rows) -> Prediction:
        """The labels and the probability of each; for a regressor, the value alone."""
        answers = self._session.run(None, self._feed(rows))
        if self._places is None:
            return Prediction(answers[0].reshape(-1).tolist(), None)
        labels = answers[0].tolist()
        places = [self._places[label] for label in labels]
        return Prediction(labels, answers[1][np.arange(len(places)), places].tolist())

    def totals(self, rows: Rows) -> NDArray[np.float64]:
        """The probability of each class, n x classes; for a regressor, the value, n x 1."""
        answers = self._session.run(None, self._feed(rows))
        return np.asarray(answers[self._places is not None], np.float64).reshape(len(rows), -1)

    def _feed(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Each input as an n x 1 tensor, or all columns as one."""
        if ALL in self._inputs:
            return {self._names[ALL]: rows.numbers.astype(DTYPES[self._inputs[ALL]])}
        numbers, objects = iter(rows.numbers.T), iter(rows.objects.T)
        columns = {c.name: next(objects) if c.is_string else next(numbers) for c in self._schema.columns}
        kinds = self._inputs.items()
        return {self._names[name]: columns[name].astype(DTYPES[kind]).reshape(-1, 1) for name, kind in kinds}


def load(mlmodel: MLmodel, _kernels: Path | None = None) -> OnnxEngine:
    """Read the companion.

    Raises:
        CompanionRefused: the companion is not one of this model, does not load, or ONNX Runtime is not installed.
    """
    folder = companion.find(mlmodel, "onnx")
    try:
        rest = json.loads((folder / "onnx.json").read_bytes())
        return make((folder / "model.onnx").read_bytes(), mlmodel.schema, rest["inputs"], rest["classes"])
    except ImportError:
        raise CompanionRefused("the model's companion for the engine onnx needs the package onnxruntime") from None
    except Exception as error:  # ONNX Runtime's errors have no class in common
        reason = first_line(error)
        raise CompanionRefused(f"the model's companion for the engine onnx does not load: {reason}") from error


def make(code: bytes, schema: InputSchema, inputs: Mapping[str, str], classes: Sequence[Any] | None) -> OnnxEngine:
    """An engine for a converted pipeline in memory."""
    # Imported here: an optional package.
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    # With one thread each, no pool is started: threads do not survive a fork, and a worker is one CPU.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(code, options, providers=["CPUExecutionProvider"])
    return OnnxEngine(session, schema, inputs, classes)
