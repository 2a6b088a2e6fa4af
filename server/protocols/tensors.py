"""Tensors of the Open Inference Protocol, converted from JSON to rows and from predictions to JSON.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, "Tensor Data".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from server.errors import InvalidBody
from server.inference.columns import Column, show
from server.inference.rows import Prediction
from server.inference.schema import RowTable

# The datatype of a tensor for each column type of MLflow.
COLUMN_DATATYPES: Mapping[str, str] = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
_INTEGER_DTYPES = {
    f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_FLOAT_DTYPES = {f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)}
# The datatype of an output tensor by the kind of its NumPy dtype.
_KIND_DATATYPES = {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FP64", "U": "BYTES"}
DATATYPES = ("BOOL", *_INTEGER_DTYPES, *_FLOAT_DTYPES, "BYTES")
# The names of the output tensors: the labels, and the probability of each label.
_LABELS_NAME, _CONFIDENCES_NAME = "predict", "confidence"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named and typed tensor; ``data`` is flat and row-major, with as many values as ``shape`` says."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any]

    @classmethod
    def parse(cls, document: object, pointer: str) -> Tensor:
        """Return the tensor of a request's input; ``pointer`` is its place, such as ``inputs.0``.

        Raises:
            InvalidBody: the document is not a tensor; the message says what is wrong, and where.
        """
        if not isinstance(document, dict):
            raise InvalidBody(f"{pointer} must be an object with name, shape, datatype and data, got {show(document)}")
        name, shape, datatype = (document.get(key) for key in ("name", "shape", "datatype"))
        if not isinstance(name, str) or not name:
            raise InvalidBody(f"{pointer}.name must be a non-empty string, got {show(name)}")
        if not _is_shape(shape):
            raise InvalidBody(f"{pointer}.shape must be [n] or [n, k], of whole numbers, got {show(shape)}")
        if datatype not in DATATYPES:
            raise InvalidBody(f"{pointer}.datatype must be one of {', '.join(DATATYPES)}, got {show(datatype)}")
        data = _flat(document.get("data"), shape, pointer)
        return cls(name, tuple(shape), str(datatype), _typed(data, str(datatype), pointer))

    def to_document(self) -> dict[str, object]:
        """Return the tensor as JSON of a response."""
        return {"name": self.name, "shape": self.shape, "datatype": self.datatype, "data": self.data}


def _is_shape(shape: object) -> TypeGuard[list[int]]:
    return isinstance(shape, list) and len(shape) in (1, 2) and all(type(size) is int and size >= 0 for size in shape)


def _flat(data: object, shape: Sequence[int], pointer: str) -> list[Any]:
    """Return the values of ``data``, which may be flat or nested as ``shape`` says."""
    if not isinstance(data, list):
        if data is None:
            raise InvalidBody(f"{pointer}.data is missing; binary data is not supported, send JSON (binary_data=False)")
        raise InvalidBody(f"{pointer}.data must be a list, got {show(data)}")
    nested = any(isinstance(item, list) for item in data)
    flat = list(_unnested(data, shape, f"{pointer}.data")) if nested else data
    if len(flat) != math.prod(shape):
        raise InvalidBody(f"{pointer}.data must have {math.prod(shape)} values, as its shape says, got {len(flat)}")
    return flat


def _unnested(data: object, shape: Sequence[int], pointer: str) -> Iterator[Any]:
    if not shape:
        if isinstance(data, list):
            raise InvalidBody(f"{pointer} is nested deeper than the shape says")
        yield data
        return
    if not isinstance(data, list) or len(data) != shape[0]:
        raise InvalidBody(f"{pointer} must be a list of length {shape[0]}, as the shape says, got {show(data)}")
    for i, item in enumerate(data):
        yield from _unnested(item, shape[1:], f"{pointer}.{i}")


def _typed(data: list[Any], datatype: str, pointer: str) -> list[Any]:
    """Return the values rounded to the datatype's precision; None stays None."""
    for i, value in enumerate(data):
        if value is not None and not _is_valid(value, datatype):
            raise InvalidBody(f"{pointer}.data.{i} must be of the datatype {datatype}, got {show(value)}")
    if datatype in ("FP16", "FP32"):
        round_to = _FLOAT_DTYPES[datatype].type
        return [None if value is None else float(round_to(value)) for value in data]
    return data


def _is_valid(value: object, datatype: str) -> bool:
    value_type = type(value)
    if datatype == "BOOL":
        return value_type is bool
    if datatype == "BYTES":
        return value_type is str
    if value_type is not int and value_type is not float:
        return False
    if datatype in _FLOAT_DTYPES:
        return abs(value) <= float(np.finfo(_FLOAT_DTYPES[datatype]).max)  # type: ignore[arg-type]
    limits = np.iinfo(_INTEGER_DTYPES[datatype])
    is_integer = value_type is int or value.is_integer()  # type: ignore[attr-defined]
    return is_integer and limits.min <= value <= limits.max  # type: ignore[operator]


def to_table(tensors: Sequence[Tensor], columns: Sequence[Column]) -> RowTable:
    """Return the rows of one tensor per column, of shape [n] or [n, 1], or of one tensor of shape [n, k] for all.

    Raises:
        InvalidBody: the tensors have neither form.
    """
    names = [column.name for column in columns]
    if len(tensors) == 1 and (tensors[0].name not in names or tensors[0].shape[1:] == (len(names),)):
        return _matrix(tensors[0], names)
    for i, tensor in enumerate(tensors):
        label = f"inputs.{i} ({tensor.name[:100]})"
        if tensor.name not in names:
            raise InvalidBody(f"{label} is not a column of this model; expected {', '.join(names[:20])}")
        if tensor.name in (previous.name for previous in tensors[:i]):
            raise InvalidBody(f"{label} is given twice")
        if tensor.shape not in ((len(tensor.data),), (len(tensor.data), 1)):
            raise InvalidBody(f"{label} must have the shape [n] or [n, 1], got {list(tensor.shape)}")
        if len(tensor.data) != len(tensors[0].data):
            raise InvalidBody(f"{label} must have as many rows as the other tensors, got {len(tensor.data)}")
    rows = list(zip(*(tensor.data for tensor in tensors), strict=True))
    return RowTable([tensor.name for tensor in tensors], rows, "#/inputs", lambda i, j: f"#/inputs/{j}/data/{i}")


def _matrix(tensor: Tensor, names: Sequence[str]) -> RowTable:
    width = len(names)
    if len(tensor.shape) != 2 or tensor.shape[1] != width:
        got = f"got {tensor.name[:100]!r} of shape {list(tensor.shape)}"
        raise InvalidBody(f"inputs must be one tensor per column, or one of shape [n, {width}] for all columns; {got}")
    rows = [tensor.data[start : start + width] for start in range(0, len(tensor.data), width)]
    return RowTable(names, rows, "#/inputs", lambda i, j: f"#/inputs/0/data/{i}/{names[j]}")


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


def _tensor(name: str, values: list[Any]) -> Tensor:
    try:
        array = np.array(values)
    except ValueError:  # The values are lists of unequal lengths.
        array = np.array([])
    datatype = _KIND_DATATYPES.get(array.dtype.kind)
    if datatype is None or len(array) != len(values):
        # No datatype fits, so the values are sent as text.
        return Tensor(name, (len(values),), "BYTES", [str(value) for value in values])
    return Tensor(name, array.shape, datatype, array.ravel().tolist())
