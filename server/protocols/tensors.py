"""Tensors of the Open Inference Protocol: their description for a model, and their conversion from JSON to rows.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, "Tensor Data".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from server.errors import InvalidBody, InvalidJson
from server.inference.columns import Column, show
from server.inference.schema import Form, InputSchema, RowTable
from server.inference.signature import schema_of_names
from server.protocols import json_codec

# The datatype of a tensor for each column type of MLflow.
COLUMN_DATATYPES: Mapping[str, str] = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "datetime": "BYTES",
    "binary": "BYTES",
    # Each value as the text of a JSON document.
    "array": "BYTES",
    "object": "BYTES",
    "map": "BYTES",
}
# The name of the tensor that stands for all columns of a signature without names; MLServer uses the same.
UNNAMED_INPUT = "input-0"
_INTEGER_DTYPES = {
    f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_FLOAT_DTYPES = {f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)}
DATATYPES = ("BOOL", *_INTEGER_DTYPES, *_FLOAT_DTYPES, "BYTES")
_MAX_RANK = 8
_DTYPES = {"BOOL": np.dtype(bool), **_INTEGER_DTYPES, **_FLOAT_DTYPES}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named and typed tensor; ``data`` is flat and row-major, with as many values as ``shape`` says."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any]
    parameters: Mapping[str, object] | None = None

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
            raise InvalidBody(f"{pointer}.shape must be a list of 1 to {_MAX_RANK} whole numbers, got {show(shape)}")
        if datatype not in DATATYPES:
            raise InvalidBody(f"{pointer}.datatype must be one of {', '.join(DATATYPES)}, got {show(datatype)}")
        data = _flat(document.get("data"), shape, pointer)
        return cls(name, tuple(shape), str(datatype), _typed(data, str(datatype), pointer))

    def nested(self) -> list[Any]:
        """Return the value of each row: a scalar, or nested lists of the other dimensions."""
        values = self.data
        for size in reversed(self.shape[1:]):
            count = len(values) // size if size else 0
            values = [values[i * size : (i + 1) * size] for i in range(count)]
        return values

    def to_document(self) -> dict[str, object]:
        """Return the tensor as JSON of a response."""
        document: dict[str, object] = {
            "name": self.name,
            "shape": self.shape,
            "datatype": self.datatype,
            "data": self.data,
        }
        return document if self.parameters is None else document | {"parameters": self.parameters}


def _is_shape(shape: object) -> TypeGuard[list[int]]:
    is_list = isinstance(shape, list) and 1 <= len(shape) <= _MAX_RANK
    return is_list and all(type(size) is int and size >= 0 for size in shape)  # type: ignore[attr-defined]


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


def input_tensors(schema: InputSchema, example: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the name, the datatype and the shape of each tensor that a request has, with -1 for any length."""
    if schema.is_positional:
        first = schema.columns[0]
        is_flat = schema.is_flat or schema.form is Form.LIST
        shape = [-1] if is_flat else [-1, *(first.shape or (len(schema.columns),))]
        return [{"name": UNNAMED_INPUT, "datatype": _datatype(first, example), "shape": shape}]
    return [
        {"name": c.name, "datatype": _datatype(c, example), "shape": [-1, *(c.shape or (1,))]} for c in schema.columns
    ]


def _datatype(column: Column, example: Mapping[str, object]) -> str:
    if column.dtype is not None and column.dtype.kind != "O":
        return next((name for name, dtype in _DTYPES.items() if dtype == column.dtype), "BYTES")
    if column.type in COLUMN_DATATYPES:
        return COLUMN_DATATYPES[column.type]
    if column.is_json:
        return "BYTES"
    value = example.get(column.name)  # of a column without a type
    while isinstance(value, list) and value:  # a tensor of objects
        value = value[0]
    return "BOOL" if isinstance(value, bool) else "FP64" if isinstance(value, int | float) else "BYTES"


def example_tensors(schema: InputSchema, example: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the tensors of a request for one row: the example, without its missing optional values."""
    if schema.form is Form.RECORDS and isinstance(record := example[schema.names[0]], dict):
        return example_tensors(schema_of_names(list(record)), record)
    described = input_tensors(schema, example)
    if schema.is_positional:
        values = [example.get(name) for name in schema.names]
        data = values[0] if schema.columns[0].shape or schema.is_flat or schema.form is Form.LIST else values
        return [{**described[0], "shape": [1, *_shape_of(data)], "data": [_element(data, schema.columns[0])]}]
    pairs = [(tensor, c, example.get(c.name)) for tensor, c in zip(described, schema.columns, strict=True)]
    return [
        {**tensor, "shape": [1, *_shape_of(value)] if c.shape else [1, 1], "data": [_element(value, c)]}
        for tensor, c, value in pairs
        if value is not None
    ]


def _shape_of(value: object) -> list[int]:
    return [len(value), *_shape_of(value[0])] if isinstance(value, list) and value else []


def _element(value: object, column: Column) -> object:
    if column.is_json:
        return json_codec.encode_value(value).decode()
    return value


def to_table(tensors: Sequence[Tensor], schema: InputSchema) -> RowTable:
    """Return the rows of one tensor per column, whose first dimension counts the rows, or of one tensor for all.

    Raises:
        InvalidBody: the tensors have neither form.
    """
    columns, names = schema.columns, [column.name for column in schema.columns]
    if schema.form is Form.RECORDS:
        return _records(tensors)
    if len(tensors) == 1 and (tensors[0].name not in names or tensors[0].shape[1:] == (len(names),)):
        return _matrix(tensors[0], schema)
    lists = []
    for i, tensor in enumerate(tensors):
        label = f"inputs.{i} ({tensor.name[:100]})"
        if tensor.name not in names:
            raise InvalidBody(f"{label} is not a column of this model; expected {', '.join(names[:20])}")
        if tensor.name in (previous.name for previous in tensors[:i]):
            raise InvalidBody(f"{label} is given twice")
        lists.append(_values(tensor, columns[names.index(tensor.name)], label))
        if len(lists[i]) != len(lists[0]):
            raise InvalidBody(f"{label} must have as many rows as the other tensors, got {len(lists[i])}")
    rows = list(zip(*lists, strict=True))
    return RowTable([tensor.name for tensor in tensors], rows, "#/inputs", lambda i, j: f"#/inputs/{j}/data/{i}")


def _values(tensor: Tensor, column: Column, label: str) -> list[Any]:
    """Return the value of each row: a scalar, a list for an array, or what the JSON text of the row says."""
    count = tensor.shape[0]
    if tensor.datatype == "BYTES" and column.is_json and len(tensor.data) == count:
        return [_parsed(text, f"{label}.data.{i}") for i, text in enumerate(tensor.data)]
    if column.type in ("tensor", "array"):
        if len(tensor.shape) == 1:
            raise InvalidBody(f"{label} must have the rows in its first dimension, and {column.expected} in the others")
        return tensor.nested()
    if tensor.shape not in ((count,), (count, 1)):
        raise InvalidBody(f"{label} must have the shape [n] or [n, 1], got {list(tensor.shape)}")
    return tensor.data


def _parsed(text: str | None, pointer: str) -> object:
    try:
        return None if text is None else json_codec.decode(text.encode())
    except InvalidJson as error:
        raise InvalidBody(f"{pointer}: {error.detail.replace('the body', 'the text')}") from None


def _matrix(tensor: Tensor, schema: InputSchema) -> RowTable:
    """Return the rows of the only tensor: one value, one array, or one value for each column."""
    names, first = list(schema.names), schema.columns[0]
    if len(names) == 1:
        values = _values(tensor, first, f"inputs.0 ({tensor.name[:100]})")
        return RowTable(names, [[value] for value in values], "#/inputs", lambda i, _: f"#/inputs/0/data/{i}")
    width = len(names)
    if len(tensor.shape) != 2 or tensor.shape[1] != width:
        got = f"got {tensor.name[:100]!r} of shape {list(tensor.shape)}"
        raise InvalidBody(f"inputs must be one tensor per column, or one of shape [n, {width}] for all columns; {got}")
    rows = [tensor.data[start : start + width] for start in range(0, len(tensor.data), width)]
    return RowTable(names, rows, "#/inputs", lambda i, j: f"#/inputs/0/data/{i}/{names[j]}")


def _records(tensors: Sequence[Tensor]) -> RowTable:
    """Return the rows of a model whose columns are unknown: by name, with the names that the request gives."""
    lists = [tensor.nested() if len(tensor.shape) > 1 and tensor.shape[1] != 1 else tensor.data for tensor in tensors]
    if len({len(values) for values in lists}) > 1:
        raise InvalidBody("the tensors in inputs must have equally many rows")
    rows = list(zip(*lists, strict=True))
    return RowTable([tensor.name for tensor in tensors], rows, "#/inputs", lambda i, j: f"#/inputs/{j}/data/{i}")
