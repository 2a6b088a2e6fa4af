"""Valid and invalid requests of MLflow's scoring protocol: JSON syntax, the Content-Type and other paths."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.peers.exchange import JSON, Case
from tests.peers.models import COVERTYPE
from tests.peers.scoring import PATH, raw_case

_VALID_TEXT = json.dumps({"dataframe_records": [COVERTYPE]})
_VALID_BODY = _VALID_TEXT.encode()

_BODIES = {
    "number": b"1",
    "text": b'"x"',
    "null": b"null",
    "true": b"true",
    "empty list": b"[]",
    "NaN": b"NaN",
    "empty": b"",
    "spaces": b"  \n",
    "cut off": _VALID_BODY[:-3],
    "too long": _VALID_BODY + b"}",
    "with a trailing comma": _VALID_TEXT.replace("}]}", "},]}").encode(),
    "with single quotes": _VALID_TEXT.replace('"', "'").encode(),
    "with a comment": b"/* rows */" + _VALID_BODY,
    "with spaces around": b" \r\n\t" + _VALID_BODY + b"\n",
    "with a byte order mark": b"\xef\xbb\xbf" + _VALID_BODY,
    "UTF-16": _VALID_TEXT.encode("utf-16"),
    "not UTF-8": _VALID_TEXT.replace("slope", "sl\xf6pe").encode("latin-1"),
    "nested deeply": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "with a key twice": b'{"dataframe_records": [], %s' % _VALID_BODY[1:],
}
_CONTENT_TYPES = (
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
    """Yield all requests of this module."""
    for name, body in _BODIES.items():
        yield raw_case(f"body {name}", body)
    yield raw_case("lone surrogate in a string", b'{"dataframe_records": [{"colour": "\\ud800"}]}', model="mixed")
    for content_type in _CONTENT_TYPES:
        yield raw_case(f"JSON as {content_type!r}", _VALID_BODY, content_type)
    for method, path in _PATHS:
        yield Case(f"{method} {path}", path, method=method)
    for path in ("/invocations?x=1", "/invocations/", "/nowhere"):
        yield Case(f"POST {path}", path, _VALID_BODY, JSON)
