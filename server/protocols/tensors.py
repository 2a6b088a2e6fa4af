"""Tensors of the Open Inference Protocol: named, typed, row-major; from JSON to rows, and from predictions to JSON.

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

# A column's values as a tensor's.
DATATYPES: Mapping[str, str] = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
_WHOLE = {f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = {f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)}
# By the kind that NumPy finds in an answer.
_ARRAYS = {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FP64", "U": "BYTES"}
KINDS = ("BOOL", *_WHOLE, *_FLOATS, "BYTES")
# The answer's tensors: the labels, and the probability of each.
LABELS, CONFIDENCES = "predict", "confidence"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: ``data`` is flat, row-major, and has as many values as ``shape`` says."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any]

    @classmethod
    def parse(cls, document: object, pointer: str) -> Tensor:
        """One of a request's inputs.

        Raises:
            InvalidBody: naming what is wrong, and where.
        """
        if not isinstance(document, dict):
            raise InvalidBody(f"{pointer} must be an object of name, shape, datatype and data, got {show(document)}")
        name, shape, datatype = (document.get(key) for key in ("name", "shape", "datatype"))
        if not isinstance(name, str) or not name:
            raise InvalidBody(f"{pointer}.name must be a name, got {show(name)}")
        if not _is_shape(shape):
            raise InvalidBody(f"{pointer}.shape must be [n] or [n, k], of whole numbers, got {show(shape)}")
        if datatype not in KINDS:
            raise InvalidBody(f"{pointer}.datatype must be one of {', '.join(KINDS)}, got {show(datatype)}")
        data = _flat(document.get("data"), shape, pointer)
        return cls(name, tuple(shape), str(datatype), _typed(data, str(datatype), pointer))

    def document(self) -> dict[str, object]:
        """As an answer has it."""
        return {"name": self.name, "shape": self.shape, "datatype": self.datatype, "data": self.data}


def _is_shape(shape: object) -> TypeGuard[list[int]]:
    return isinstance(shape, list) and len(shape) in (1, 2) and all(type(size) is int and size >= 0 for size in shape)


def _flat(data: object, shape: Sequence[int], pointer: str) -> list[Any]:
    """The values of ``data``, which is flat, or nested as ``shape`` says."""
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
        raise InvalidBody(f"{pointer} must be a list of {shape[0]}, as the shape says, got {show(data)}")
    for i, item in enumerate(data):
        yield from _unnested(item, shape[1:], f"{pointer}.{i}")


def _typed(data: list[Any], datatype: str, pointer: str) -> list[Any]:
    """The values as those of the datatype: a float32 is the nearest one, and None is none."""
    for i, value in enumerate(data):
        if value is not None and not _is_one(value, datatype):
            raise InvalidBody(f"{pointer}.data.{i} must be of the datatype {datatype}, got {show(value)}")
    if datatype in ("FP16", "FP32"):
        kind = _FLOATS[datatype].type
        return [None if value is None else float(kind(value)) for value in data]
    return data


def _is_one(value: object, datatype: str) -> bool:
    kind = type(value)
    if datatype == "BOOL":
        return kind is bool
    if datatype == "BYTES":
        return kind is str
    if kind is not int and kind is not float:
        return False
    if datatype in _FLOATS:
        return abs(value) <= float(np.finfo(_FLOATS[datatype]).max)  # type: ignore[arg-type]
    limits = np.iinfo(_WHOLE[datatype])
    whole = kind is int or value.is_integer()  # type: ignore[attr-defined]
    return whole and limits.min <= value <= limits.max  # type: ignore[operator]


def to_table(tensors: Sequence[Tensor], columns: Sequence[Column]) -> RowTable:
    """Rows of tensors: one a column, of shape [n] or [n, 1]; or one for all, of shape [n, k] in the signature's order.

    Raises:
        InvalidBody: the tensors are neither.
    """
    names = [column.name for column in columns]
    if len(tensors) == 1 and (tensors[0].name not in names or tensors[0].shape[1:] == (len(names),)):
        return _matrix(tensors[0], names)
    for i, tensor in enumerate(tensors):
        place = f"inputs.{i} ({tensor.name[:100]})"
        if tensor.name not in names:
            raise InvalidBody(f"{place} is no column of this model; expected {', '.join(names[:20])}")
        if tensor.name in (other.name for other in tensors[:i]):
            raise InvalidBody(f"{place} is there twice")
        if tensor.shape not in ((len(tensor.data),), (len(tensor.data), 1)):
            raise InvalidBody(f"{place} must have the shape [n] or [n, 1], got {list(tensor.shape)}")
        if len(tensor.data) != len(tensors[0].data):
            raise InvalidBody(f"{place} must have as many rows as the others, got {len(tensor.data)}")
    rows = list(zip(*(tensor.data for tensor in tensors), strict=True))
    return RowTable([tensor.name for tensor in tensors], rows, "#/inputs", lambda i, j: f"#/inputs/{j}/data/{i}")


def _matrix(tensor: Tensor, names: Sequence[str]) -> RowTable:
    width = len(names)
    if len(tensor.shape) != 2 or tensor.shape[1] != width:
        got = f"got {tensor.name[:100]!r} of shape {list(tensor.shape)}"
        raise InvalidBody(f"inputs must be one tensor a column, or one of the shape [n, {width}] for all; {got}")
    rows = [tensor.data[start : start + width] for start in range(0, len(tensor.data), width)]
    return RowTable(names, rows, "#/inputs", lambda i, j: f"#/inputs/0/data/{i}/{names[j]}")


def outputs(prediction: Prediction) -> list[Tensor]:
    """The answer's tensors: the labels, by the names of the model's outputs where it has any, and the confidences."""
    columns = prediction.columns
    if columns is None or len(columns) == 1:
        found = [_tensor(columns[0] if columns else LABELS, prediction.labels)]
    else:
        by_column = zip(*prediction.labels, strict=True)
        found = [_tensor(name, list(values)) for name, values in zip(columns, by_column, strict=True)]
    if prediction.confidences is not None:
        confidences = _tensor(CONFIDENCES, prediction.confidences)
        # A label that stands for "none of the classes" has no probability, and a tensor no place for none.
        if confidences.datatype == "FP64":
            found.append(confidences)
    return found


def _tensor(name: str, values: list[Any]) -> Tensor:
    try:
        array = np.array(values)
    except ValueError:  # lists of unequal lengths
        array = np.array([])
    datatype = _ARRAYS.get(array.dtype.kind)
    if datatype is None or len(array) != len(values):
        # Nothing that a tensor holds: as text.
        return Tensor(name, (len(values),), "BYTES", [str(value) for value in values])
    return Tensor(name, array.shape, datatype, array.ravel().tolist())
