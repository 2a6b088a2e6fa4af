"""Requests of the Open Inference Protocol, version 2, good and bad: what models tell, good tensors, none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.peers.exchange import JSON, Case
from tests.peers.models import COVERTYPE, MIXED, SEVERAL, Row

MODEL = "/v2/models/{name}"
VERSION = f"{MODEL}/versions/{{version}}"
INFER = f"{MODEL}/infer"

ROWS: dict[str, list[Row]] = {
    "covertype": [COVERTYPE, {**COVERTYPE, "elevation": 3300, "wilderness_area": 3, "soil_type": 38}],
    "mixed": [MIXED, {**MIXED, "colour": "größe 高", "fragile": False, "age": 31.5}],
    "several": [SEVERAL, {**SEVERAL, "y": 1}],
}
TYPES: dict[str, dict[str, str]] = {
    "covertype": dict.fromkeys(COVERTYPE, "INT64"),
    "mixed": dict(zip(MIXED, ("BYTES", "INT32", "INT64", "FP32", "FP64", "BOOL", "FP64"), strict=True)),
    "several": dict.fromkeys(SEVERAL, "FP64"),
}
# MLServer has two runtimes, the second of which takes tensors of shape [n, k].
SKLEARN = "-sklearn"


def tensor(name: str, datatype: str, shape: Sequence[Any], data: Any) -> dict[str, Any]:
    """One input of a request."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def columns(model: str, rows: Sequence[Row], *, flat: bool = False) -> list[dict[str, Any]]:
    """The rows as one tensor a column, of shape [n, 1] or [n]."""
    shape = [len(rows)] if flat else [len(rows), 1]
    return [tensor(name, kind, shape, [row[name] for row in rows]) for name, kind in TYPES[model].items()]


def matrix(rows: Sequence[Row], datatype: str = "INT64", name: str = "matrix") -> dict[str, Any]:
    """The rows as one tensor of shape [n, k]."""
    data = [value for row in rows for value in row.values()]
    return tensor(name, datatype, [len(rows), len(rows[0])], data)


def asked(name: str, inputs: object, model: str = "covertype", **more: object) -> Case:
    """A request for predictions of these inputs."""
    return Case(name, INFER, json.dumps({"inputs": inputs, **more}).encode(), JSON, model)


_PATHS = (
    ("GET", "/v2"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready"), ("GET", MODEL), ("GET", f"{MODEL}/ready"),
    ("GET", VERSION), ("GET", f"{VERSION}/ready"), ("GET", f"{MODEL}/versions/999"),
    ("GET", f"{MODEL}/versions/999/ready"), ("GET", "/v2/models/nobody"),
    ("GET", "/v2/models/nobody/ready"), ("GET", "/v2/models/nobody/versions/1"),
    ("GET", "/v2/models/gr%C3%B6%C3%9Fe"), ("GET", "/v2/models"), ("GET", "/v2/nowhere"), ("GET", INFER),
    ("POST", "/v2"), ("POST", "/v2/health/live"), ("POST", MODEL), ("DELETE", MODEL), ("PUT", INFER),
    ("POST", "/v2/repository/index"), ("GET", f"{MODEL}/stats"), ("GET", f"{MODEL}/config"),
)  # fmt: skip


def _told() -> Iterator[Case]:
    for method, path in _PATHS:
        yield Case(f"{method} {path}", path, method=method)
    for model in ("mixed", "several"):
        yield Case(f"GET {MODEL} of {model}", MODEL, model=model, method="GET")


def _columns() -> Iterator[Case]:
    for model, rows in ROWS.items():
        given = columns(model, rows)
        yield asked(f"columns of [n, 1] {model}", given, model)
        yield asked(f"columns of [n] {model}", columns(model, rows, flat=True), model)
        yield asked(f"nested columns {model}", [{**one, "data": [[v] for v in one["data"]]} for one in given], model)
        yield asked(f"one row {model}", columns(model, rows[:1]), model)
        yield asked(f"a hundred rows {model}", columns(model, rows * 50), model)
        yield asked(f"columns in another order {model}", given[::-1], model)


def _matrices() -> Iterator[Case]:
    for count in (1, 2, 100):
        rows = (ROWS["covertype"] * 50)[:count]
        nested = {**matrix(rows), "data": [list(row.values()) for row in rows]}
        yield asked(f"a matrix of {count}", [matrix(rows)], f"covertype{SKLEARN}")
        yield asked(f"a nested matrix of {count}", [nested], f"covertype{SKLEARN}")
    rows = ROWS["covertype"]
    yield asked("a matrix of floats", [matrix(rows, "FP32")], f"covertype{SKLEARN}")
    yield asked("a matrix of several outputs", [matrix(ROWS["several"], "FP64")], f"several{SKLEARN}")
    yield asked("a matrix with a column's name", [matrix(rows, name="slope")], f"covertype{SKLEARN}")
    yield asked("a matrix as pd", [matrix(rows)], parameters={"content_type": "pd"})


_ONE = columns("covertype", ROWS["covertype"][:1])
_BODY = json.dumps({"inputs": _ONE}).encode()
_BESIDE: Mapping[str, dict[str, object]] = {
    "id": {"id": "4 2/ü"},
    "id empty": {"id": ""},
    "id null": {"id": None},
    "id number": {"id": 42},
    "unknown parameters": {"parameters": {"priority": 1}},
    "parameters of another form": {"parameters": [1]},
    "unknown key": {"more": 1},
    "outputs null": {"outputs": None},
    "outputs empty": {"outputs": []},
}
_OUTPUTS: Mapping[str, list[object]] = {
    "by name": [{"name": "predict"}],
    "by an unknown name": [{"name": "nothing"}],
    "with probabilities": [{"name": "predict_proba"}],
    "without a name": [{}],
    "as names": ["predict"],
    "by name, twice": [{"name": "predict"}, {"name": "predict"}],
    "in the binary form": [{"name": "predict", "parameters": {"binary_data": True}}],
}
_TYPES = (
    "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "application/octet-stream",
    "application/x-www-form-urlencoded", "text/csv", "", None,
)  # fmt: skip


def _around() -> Iterator[Case]:
    for name, more in _BESIDE.items():
        yield asked(name, _ONE, "covertype", **more)
    for name, outputs in _OUTPUTS.items():
        yield asked(f"outputs {name}", [matrix(ROWS["covertype"])], f"covertype{SKLEARN}", outputs=outputs)
    for name, parameters in {"unknown parameters": {"x": 1}, "content types": {"content_type": "np"}}.items():
        yield asked(f"{name} of tensors", [{**one, "parameters": parameters} for one in _ONE])
    for path in ("/v2/models/nobody/infer", f"{VERSION}/infer", f"{MODEL}/versions/999/infer", f"{INFER}/"):
        yield Case(f"POST {path}", path, _BODY, JSON)
    for kind in _TYPES:
        yield Case(f"as {kind!r}", INFER, _BODY, kind)


def _binary() -> Iterator[Case]:
    """Triton's extension, and half of it."""
    size = {"Inference-Header-Content-Length": str(len(_BODY))}
    yield Case("binary data", INFER, _BODY + b"\0" * 8, "application/octet-stream", headers=size)
    parted = {key: value for key, value in _ONE[0].items() if key != "data"}
    yield asked("binary data's size alone", [{**parted, "parameters": {"binary_data_size": 8}}, *_ONE[1:]])


_TEXT = _BODY.decode()
_BODIES = {
    "empty": b"",
    "number": b"1",
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "empty object": b"{}",
    "cut off": _BODY[:-2],
    "too long": _BODY + b"]",
    "with a trailing comma": _TEXT.replace("}]}", "},]}").encode(),
    "with a byte order mark": b"\xef\xbb\xbf" + _BODY,
    "not UTF-8": _TEXT.replace("slope", "sl\xf6pe").encode("latin-1"),
    "nested deeply": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}
_NO_INPUTS: Mapping[str, object] = {"null": None, "empty": [], "object": {}, "of numbers": [1], "text": "x"}


def _bodies() -> Iterator[Case]:
    for name, body in _BODIES.items():
        yield Case(f"body {name}", INFER, body, JSON)
    for name, inputs in _NO_INPUTS.items():
        yield asked(f"inputs {name}", inputs)


def cases() -> Iterator[Case]:
    """All of them."""
    for some in (_told, _columns, _matrices, _around, _binary, _bodies):
        yield from some()
