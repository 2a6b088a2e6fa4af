"""Requests of MLflow's scoring protocol, good and bad: what is no good JSON, how it is declared, and other paths."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.peers.exchange import JSON, Case
from tests.peers.models import COVERTYPE
from tests.peers.scoring import PATH, raw

_TEXT = json.dumps({"dataframe_records": [COVERTYPE]})
_GOOD = _TEXT.encode()

_BODIES = {
    "number": b"1",
    "text": b'"x"',
    "null": b"null",
    "true": b"true",
    "empty list": b"[]",
    "NaN": b"NaN",
    "empty": b"",
    "spaces": b"  \n",
    "cut off": _GOOD[:-3],
    "too long": _GOOD + b"}",
    "with a trailing comma": _TEXT.replace("}]}", "},]}").encode(),
    "with single quotes": _TEXT.replace('"', "'").encode(),
    "with a comment": b"/* rows */" + _GOOD,
    "with spaces around": b" \r\n\t" + _GOOD + b"\n",
    "with a byte order mark": b"\xef\xbb\xbf" + _GOOD,
    "UTF-16": _TEXT.encode("utf-16"),
    "not UTF-8": _TEXT.replace("slope", "sl\xf6pe").encode("latin-1"),
    "nested deeply": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "with a key twice": b'{"dataframe_records": [], %s' % _GOOD[1:],
}
_TYPES = (
    "application/json; charset=utf-8", "application/json;charset=UTF-8", 'application/json; charset="utf-8"',
    "application/json; charset=utf8", "application/json; charset=latin-1", "application/json; charset=",
    "application/json; format=pandas-split", "application/json; charset=utf-8; q=1", "application/json;",
    "application/json; Charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json", "text/json", "text/plain",
    "application/x-www-form-urlencoded", "application/octet-stream", "", "json", "text/csv", "*/*", None,
)  # fmt: skip
_PATHS = (
    ("GET", "/ping"), ("GET", "/health"), ("GET", "/version"), ("HEAD", "/ping"), ("POST", "/ping"), ("GET", PATH),
    ("PUT", PATH), ("DELETE", PATH), ("OPTIONS", PATH), ("GET", "/nowhere"), ("GET", "/ping/"),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for name, body in _BODIES.items():
        yield raw(f"body {name}", body)
    yield raw("lone surrogate in a string", b'{"dataframe_records": [{"colour": "\\ud800"}]}', model="mixed")
    for kind in _TYPES:
        yield raw(f"JSON as {kind!r}", _GOOD, kind)
    for method, path in _PATHS:
        yield Case(f"{method} {path}", path, method=method)
    for path in ("/invocations?x=1", "/invocations/", "/nowhere"):
        yield Case(f"POST {path}", path, _GOOD, JSON)
