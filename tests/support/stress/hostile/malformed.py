"""Requests that are not HTTP, or ambiguous HTTP, with the statuses that Nginx answers.

An empty list of statuses means that Nginx closes the connection without an answer. ``INNER`` is the second request that
request smuggling tries to hide in the first; if it succeeded, there would be two statuses.
"""

from __future__ import annotations

import json

from tests.support.stress.load import WORKSHOP_ROW

BODY = json.dumps(WORKSHOP_ROW).encode()
INNER = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def _post(lines: bytes, body: bytes) -> bytes:
    return b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + lines + b"\r\n" + body


def _get(target: bytes, lines: bytes = b"", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + lines + b"Connection: close\r\n\r\n"


CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
_LENGTH = b"Content-Length: %d\r\n"
_TE = b"Transfer-Encoding: chunked\r\n"
_CLOSE = b"Connection: close\r\n"

MALFORMED: dict[str, tuple[bytes, list[int]]] = {
    "bare LF": (_get(b"/ping").replace(b"\r\n", b"\n"), [200]),
    "two equal lengths": (_post(_LENGTH % len(BODY) * 2, BODY), [400]),
    "two lengths": (_post(_LENGTH % len(BODY) + _LENGTH % 0, BODY + INNER), [400]),
    "a list of lengths": (_post(b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)), BODY), [400]),
    "a signed length": (_post(b"Content-Length: +%d\r\n" % len(BODY), BODY), [400]),
    "CL.TE": (_post(_LENGTH % (len(CHUNKS) + len(INNER)) + _TE, CHUNKS + INNER), [400]),
    "TE.CL": (_post(_TE + _LENGTH % 4, CHUNKS + INNER), [400]),
    "TE.TE": (_post(_TE + b"Transfer-Encoding: identity\r\n", CHUNKS + INNER), [400]),
    "TE twice": (_post(_TE * 2, CHUNKS + INNER), [400]),
    "xchunked": (_post(b"Transfer-Encoding: xchunked\r\n", CHUNKS + INNER), [501]),
    "chunked, gzip": (_post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS + INNER), [501]),
    "TE in HTTP/1.0": (_post(_TE, CHUNKS + INNER).replace(b"HTTP/1.1", b"HTTP/1.0", 1), [400]),
    "tab before chunked": (_post(b"Transfer-Encoding:\tchunked\r\n", CHUNKS), [501]),
    "space before the colon": (_post(b"Transfer-Encoding : chunked\r\n" + _CLOSE, CHUNKS), [400]),
    "obs-fold": (_post(b"Transfer-Encoding:\r\n chunked\r\n" + _CLOSE, CHUNKS), [400]),
    "chunk size is not a number": (_post(_TE, b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"), [400]),
    "chunk size overflows": (_post(_TE, b"f" * 40 + b"\r\n" + BODY), [400]),
    "chunk is longer than its size": (_post(_TE, b"1\r\n" + BODY + b"\r\n0\r\n\r\n"), [400]),
    "NUL in the path": (_get(b"/pi\x00ng"), [400]),
    "NUL encoded in the path": (_get(b"/pi%00ng"), [400]),
    "NUL in a header": (_get(b"/ping", b"X: a\x00b\r\n"), [400]),
    "absolute form": (_get(b"http://elsewhere/ping"), [200]),
    "port is not a number": (_get(b"http://elsewhere:x/ping"), [400]),
    "path above the root": (_get(b"/../../etc/passwd"), [400]),
    "no host": (b"GET /ping HTTP/1.1\r\n\r\n", [400]),
    "two hosts": (_get(b"/ping", b"Host: y\r\n"), [400]),
    "HTTP/0.9": (b"GET /ping\r\n", []),
    "HTTP/3.0": (b"GET /ping HTTP/3.0\r\nHost: x\r\n\r\n", [505]),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "upgrade to h2c": (_get(b"/ping", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"), [200]),
    "CONNECT": (_get(b"/ping", method=b"CONNECT"), [405]),
    "TRACE": (_get(b"/ping", method=b"TRACE"), [405]),
    "no method": (_get(b"/ping", method=b"\x16\x03\x01"), [400]),
    "empty lines": (b"\r\n\r\n\r\n", []),
}
