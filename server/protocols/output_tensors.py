"""The output tensors of a prediction, in the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import numpy as np

from server.inference.rows import Prediction
from server.protocols import json_codec
from server.protocols.tensors import Tensor

# The datatype of an output tensor by the kind of its NumPy dtype.
_KIND_DATATYPES = {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FP64", "U": "BYTES"}
# The names of the output tensors: the labels, the probability of each label, and the probabilities of all classes,
# which are sent only to clients that request them.
_LABELS_NAME, _CONFIDENCES_NAME, PROBABILITIES_NAME = "predict", "confidence", "probabilities"


def output_tensors(prediction: Prediction) -> list[Tensor]:
    """Return the tensors of a response: the labels, under the model's output names if it has any, and confidences."""
    columns = prediction.columns
    if columns is None or len(columns) == 1:
        tensors = [_tensor(columns[0] if columns else _LABELS_NAME, prediction.labels)]
    else:
        by_column = zip(*prediction.labels, strict=True)
        tensors = [_tensor(name, list(values)) for name, values in zip(columns, by_column, strict=True)]
    if prediction.confidences is not None:
        confidences = _tensor(_CONFIDENCES_NAME, prediction.confidences)
        # The label for "none of the classes" has no probability, and a tensor of FP64 cannot contain null.
        if confidences.datatype == "FP64":
            tensors.append(confidences)
    return tensors


def probability_tensors(prediction: Prediction) -> list[Tensor]:
    """Return the probabilities of all classes, n x classes; with several outputs, a tensor for each."""
    outputs = prediction.probabilities or ()
    names = [PROBABILITIES_NAME] if len(outputs) == 1 else [f"{PROBABILITIES_NAME}-{i}" for i in range(len(outputs))]
    return [
        Tensor(name, output.values.shape, "FP64", output.values.ravel().tolist(), {"classes": list(output.classes)})
        for name, output in zip(names, outputs, strict=True)
    ]


def _tensor(name: str, values: list[Any]) -> Tensor:
    try:
        array = np.array(values)
    except ValueError:  # The values are lists of unequal lengths.
        array = np.array([])
    datatype = _KIND_DATATYPES.get(array.dtype.kind)
    if datatype is None or len(array) != len(values):
        # No datatype fits, so the values are sent as text.
        return Tensor(name, (len(values),), "BYTES", [_text(value) for value in values])
    return Tensor(name, array.shape, datatype, array.ravel().tolist())


def _text(value: object) -> str:
    """Return a label as text: an object as JSON, and any other value as Python writes it."""
    return json_codec.encode(value).decode() if isinstance(value, dict) else str(value)
