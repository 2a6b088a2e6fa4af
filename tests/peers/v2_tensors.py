"""Valid and invalid requests of the Open Inference Protocol: names, shapes, datatypes and values of tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.peers.exchange import JSON, Case
from tests.peers.models import COVERTYPE
from tests.peers.v2 import INFER, ROWS, SKLEARN, TYPES, columns, infer_case, matrix, tensor

_FLAT = list(COVERTYPE.values())


def _changed(model: str, column: str, /, **changes: Any) -> list[dict[str, Any]]:
    """Return valid columns of one row, with keys of one column changed; ``...`` removes a key."""
    inputs = columns(model, ROWS[model][:1])
    for item in inputs:
        if item["name"] == column:
            item.update(changes)
    return [{key: value for key, value in item.items() if value is not ...} for item in inputs]


def _renamed(column: dict[str, Any]) -> dict[str, Any]:
    return {**column, "name": "more"}


def _inputs() -> Iterator[Case]:
    valid = columns("covertype", ROWS["covertype"])
    slope, mixed = valid[2], columns("mixed", ROWS["mixed"])
    yield infer_case("a column missing", [column for column in valid if column is not slope])
    yield infer_case("a column twice", [*valid, slope])
    yield infer_case("an unknown column beside", [*valid, _renamed(slope)])
    yield infer_case("an unknown column instead", [_renamed(column) if column is slope else column for column in valid])
    yield infer_case("columns of unequal lengths", [tensor("elevation", "INT64", [1, 1], [1]), *valid[1:]])
    yield infer_case("one column alone", [slope])
    yield infer_case("a matrix and a column", [matrix(ROWS["covertype"]), slope])
    yield infer_case("the optional column missing", [column for column in mixed if column["name"] != "age"], "mixed")
    for key in ("name", "shape", "datatype", "data"):
        yield infer_case(f"a column without {key}", _changed("covertype", "slope", **{key: ...}))
        yield infer_case(f"a column with {key} null", _changed("covertype", "slope", **{key: None}))
        yield infer_case(f"a column with {key} as an object", _changed("covertype", "slope", **{key: {}}))


_COLUMN_SHAPES: tuple[object, ...] = (
    [2, 1], [1, 2], [0], [], [-1, 1], [1, -1], [-1], [1, 1, 1], [10**9], [10**12, 1], [2**63, 1], [2**70], [1.0, 1],
    [0.5], ["1", 1], [True, 1], [None], 1, "[1, 1]",
)  # fmt: skip
_MATRIX_SHAPES = (
    [1, 12], [12], [12, 1], [1, 6], [2, 6], [1, 12, 1], [-1, 12], [1, -12], [10**9, 12], [2**62, 12], [0, 12], [1, 13],
)  # fmt: skip
_MATRIX_DATA: Mapping[str, object] = {
    "nothing": [],
    "one value too many": [*_FLAT, 1],
    "a ragged list": [_FLAT[:6], _FLAT[6:11]],
    "two lists of six": [_FLAT[:6], _FLAT[6:]],
    "lists too deep": [[_FLAT]],
    "lists of one": [[value] for value in _FLAT],
    "a list and values": [_FLAT[:11], 1],
    "a number": 1,
    "text": "1,2",
    "an object": {"0": 1},
}


def _shapes() -> Iterator[Case]:
    for shape in _COLUMN_SHAPES:
        yield infer_case(f"a column of shape {json.dumps(shape)}", _changed("covertype", "slope", shape=shape))
    for size in _MATRIX_SHAPES:
        yield infer_case(f"a matrix of shape {size}", [tensor("matrix", "INT64", size, _FLAT)], f"covertype{SKLEARN}")
    for name, data in _MATRIX_DATA.items():
        yield infer_case(f"a matrix with {name}", [tensor("matrix", "INT64", [1, 12], data)], f"covertype{SKLEARN}")
    for model in ("covertype", "mixed"):
        yield infer_case(f"no rows {model}", columns(model, []), model)
    yield infer_case("a matrix of no rows", [tensor("matrix", "INT64", [0, 12], [])], f"covertype{SKLEARN}")


_DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "FP16", "FP32", "FP64", "BYTES", "int64",
    "INT128", "STRING", "", "TYPE_INT64",
)  # fmt: skip
_DECLARED = (
    ("colour", "INT64", 7), ("colour", "FP64", 7.5), ("count", "INT64", 7), ("count", "FP64", 7.0),
    ("count", "FP64", 7.5), ("total", "INT32", 7), ("total", "UINT64", 2**63), ("height", "FP64", 0.1),
    ("height", "FP16", 0.1),
    ("height", "INT64", 7), ("weight", "FP32", 0.1), ("weight", "FP16", 0.1), ("weight", "INT64", 7),
    ("weight", "BYTES", "0.1"), ("fragile", "INT8", 1), ("fragile", "UINT8", 0), ("fragile", "INT64", 2),
    ("fragile", "BYTES", "true"), ("age", "FP32", 30.5), ("weight", "UINT8", 255), ("weight", "UINT8", 256),
    ("weight", "UINT8", -1), ("weight", "INT8", 127), ("weight", "INT8", 128), ("weight", "UINT64", 2**53),
    ("weight", "UINT64", 2**64 - 1), ("weight", "UINT64", 2**64), ("weight", "INT64", -(2**63)),
    ("weight", "FP16", 65504), ("weight", "FP16", 65536), ("weight", "FP32", 16777217), ("weight", "FP64", 2**53 + 1),
)  # fmt: skip


def _datatypes() -> Iterator[Case]:
    for datatype in _DATATYPES:
        yield infer_case(f"a long column as {datatype!r}", _changed("covertype", "slope", datatype=datatype))
    for column, datatype, value in _DECLARED:
        changed = _changed("mixed", column, datatype=datatype, data=[value])
        yield infer_case(f"{column} as {datatype} {value!r}", changed, "mixed")


# JSON texts, each tried in a tensor of its column's own datatype.
_VALUES: Mapping[str, tuple[str, ...]] = {
    "colour": ('"größe 高"', '""', '"cmVk"', "7", "true", "null", '["red"]', "[]", "{}", '"\\ud800"'),
    "count": ("7.0", "7.5", '"7"', "true", "null", "2147483648", "-2147483649", "1e400", "NaN", "[[7]]"),
    "total": ("7.0", "7.5", '"7"', "true", "null", "9007199254740993", "9223372036854775808", "1e30", "NaN"),
    "height": ("7", "0.1", "1e39", '"0.5"', "null", "NaN", "Infinity", "1e400"),
    "weight": ("7", "0.1", "1e308", '"0.5"', "null", "NaN", "-Infinity", "true"),
    "fragile": ("false", "0", "1", "2", '"true"', "null", "1.0"),
    "age": ("null", "NaN", "7"),
}


def _values() -> Iterator[Case]:
    for column, texts in _VALUES.items():
        body = json.dumps({"inputs": _changed("mixed", column, data=["<value>"])})
        for text in texts:
            name = f"{column} {TYPES['mixed'][column]} {text}"
            yield Case(name, INFER, body.replace('"<value>"', text).encode(), JSON, "mixed")


def cases() -> Iterator[Case]:
    """Yield all requests of this module."""
    for generate in (_inputs, _shapes, _datatypes, _values):
        yield from generate()
