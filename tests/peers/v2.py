"""Valid and invalid requests of the Open Inference Protocol: metadata, valid tensors, headers and bodies."""

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
# The suffix of models in the second of MLServer's runtimes, which accepts tensors of shape [n, k].
SKLEARN = "-sklearn"


def tensor(name: str, datatype: str, shape: Sequence[Any], data: Any) -> dict[str, Any]:
    """Return an input of a request."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def columns(model: str, rows: Sequence[Row], *, flat: bool = False) -> list[dict[str, Any]]:
    """Return the rows as one tensor per column, of shape [n, 1] or [n]."""
    shape = [len(rows)] if flat else [len(rows), 1]
    return [tensor(name, datatype, shape, [row[name] for row in rows]) for name, datatype in TYPES[model].items()]


def matrix(rows: Sequence[Row], datatype: str = "INT64", name: str = "matrix") -> dict[str, Any]:
    """Return the rows as one tensor of shape [n, k]."""
    data = [value for row in rows for value in row.values()]
    return tensor(name, datatype, [len(rows), len(rows[0])], data)


def infer_case(name: str, inputs: object, model: str = "covertype", **keys: object) -> Case:
    """Return a request for predictions of these inputs."""
    return Case(name, INFER, json.dumps({"inputs": inputs, **keys}).encode(), JSON, model)


_PATHS = (
    ("GET", "/v2"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready"), ("GET", MODEL), ("GET", f"{MODEL}/ready"),
    ("GET", VERSION), ("GET", f"{VERSION}/ready"), ("GET", f"{MODEL}/versions/999"),
    ("GET", f"{MODEL}/versions/999/ready"), ("GET", "/v2/models/nobody"),
    ("GET", "/v2/models/nobody/ready"), ("GET", "/v2/models/nobody/versions/1"),
    ("GET", "/v2/models/gr%C3%B6%C3%9Fe"), ("GET", "/v2/models"), ("GET", "/v2/nowhere"), ("GET", INFER),
    ("POST", "/v2"), ("POST", "/v2/health/live"), ("POST", MODEL), ("DELETE", MODEL), ("PUT", INFER),
    ("POST", "/v2/repository/index"), ("GET", f"{MODEL}/stats"), ("GET", f"{MODEL}/config"),
)  # fmt: skip


def _metadata() -> Iterator[Case]:
    for method, path in _PATHS:
        yield Case(f"{method} {path}", path, method=method)
    for model in ("mixed", "several"):
        yield Case(f"GET {MODEL} of {model}", MODEL, model=model, method="GET")


def _nested(column: dict[str, Any]) -> dict[str, Any]:
    return {**column, "data": [[value] for value in column["data"]]}


def _columns() -> Iterator[Case]:
    for model, rows in ROWS.items():
        inputs = columns(model, rows)
        yield infer_case(f"columns of [n, 1] {model}", inputs, model)
        yield infer_case(f"columns of [n] {model}", columns(model, rows, flat=True), model)
        yield infer_case(f"nested columns {model}", [_nested(column) for column in inputs], model)
        yield infer_case(f"one row {model}", columns(model, rows[:1]), model)
        yield infer_case(f"a hundred rows {model}", columns(model, rows * 50), model)
        yield infer_case(f"columns in another order {model}", inputs[::-1], model)


def _matrices() -> Iterator[Case]:
    for count in (1, 2, 100):
        rows = (ROWS["covertype"] * 50)[:count]
        nested = {**matrix(rows), "data": [list(row.values()) for row in rows]}
        yield infer_case(f"a matrix of {count}", [matrix(rows)], f"covertype{SKLEARN}")
        yield infer_case(f"a nested matrix of {count}", [nested], f"covertype{SKLEARN}")
    rows = ROWS["covertype"]
    yield infer_case("a matrix of floats", [matrix(rows, "FP32")], f"covertype{SKLEARN}")
    yield infer_case("a matrix of several outputs", [matrix(ROWS["several"], "FP64")], f"several{SKLEARN}")
    yield infer_case("a matrix with a column's name", [matrix(rows, name="slope")], f"covertype{SKLEARN}")
    yield infer_case("a matrix as pd", [matrix(rows)], parameters={"content_type": "pd"})


_ONE_ROW = columns("covertype", ROWS["covertype"][:1])
_BODY = json.dumps({"inputs": _ONE_ROW}).encode()
_EXTRA_KEYS: Mapping[str, dict[str, object]] = {
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
_CONTENT_TYPES = (
    "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "application/octet-stream",
    "application/x-www-form-urlencoded", "text/csv", "", None,
)  # fmt: skip


def _keys_and_headers() -> Iterator[Case]:
    for name, keys in _EXTRA_KEYS.items():
        yield infer_case(name, _ONE_ROW, "covertype", **keys)
    for name, outputs in _OUTPUTS.items():
        yield infer_case(f"outputs {name}", [matrix(ROWS["covertype"])], f"covertype{SKLEARN}", outputs=outputs)
    for name, parameters in {"unknown parameters": {"x": 1}, "content types": {"content_type": "np"}}.items():
        yield infer_case(f"{name} of tensors", [{**column, "parameters": parameters} for column in _ONE_ROW])
    for path in ("/v2/models/nobody/infer", f"{VERSION}/infer", f"{MODEL}/versions/999/infer", f"{INFER}/"):
        yield Case(f"POST {path}", path, _BODY, JSON)
    for content_type in _CONTENT_TYPES:
        yield Case(f"as {content_type!r}", INFER, _BODY, content_type)


def _binary() -> Iterator[Case]:
    """Yield requests in the binary extension of Triton, one of them incomplete."""
    size = {"Inference-Header-Content-Length": str(len(_BODY))}
    yield Case("binary data", INFER, _BODY + b"\0" * 8, "application/octet-stream", headers=size)
    without_data = {key: value for key, value in _ONE_ROW[0].items() if key != "data"}
    yield infer_case(
        "binary data's size alone", [{**without_data, "parameters": {"binary_data_size": 8}}, *_ONE_ROW[1:]]
    )


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
        yield infer_case(f"inputs {name}", inputs)


def cases() -> Iterator[Case]:
    """Yield all requests of this module."""
    for generate in (_metadata, _columns, _matrices, _keys_and_headers, _binary, _bodies):
        yield from generate()
