"""What the OpenAPI document says holds through Nginx and Gunicorn, too."""

from __future__ import annotations

import json
import socket
from email.message import Message
from email.parser import BytesHeaderParser

import pytest
import schemathesis

from tests.support.fuzzing import config, fuzz, operations
from tests.support.stacks.local import Stack
from tests.support.stress.load import WORKSHOP_ROW

pytestmark = pytest.mark.xdist_group("stack")

V2 = {"inputs": [{"name": "all", "shape": [1, 12], "datatype": "FP64", "data": list(WORKSHOP_ROW.values())}]}
BODIES: dict[str, object] = {
    "/predict": WORKSHOP_ROW,
    "/invocations": {"instances": [WORKSHOP_ROW]},
    "/v2/models/covertype/infer": V2,
}
# Beside them are a good request line, a good body and, unless they have one, its length and its type.
HEADERS = (
    *(
        f"Content-Type: {kind}"
        for kind in ("", "\xff\xfe", "A" * 3000, "application/json; charset=latin-1", "*/*", "a\0b")
    ),
    *(
        f"Content-Length: {length}"
        for length in ("-1", "+5", "5, 5", "0x10", "", "9" * 30, "5\r\nContent-Length: 6", "5")
    ),
    *(f"Transfer-Encoding: {coding}" for coding in ("chunked", "Chunked", "chunked\r\nTransfer-Encoding: chunked")),
    *("Expect: 200-ok", "Content-Encoding: gzip", "Upgrade: h2c", "Accept: text/nothing", "Host: [::", "X y: 1"),
    *("X: " + "a" * 20_000, "X: \xff", "X", "X: 1\r\n 2", "Inference-Header-Content-Length: 10"),
    "\r\n".join(f"X-{i}: 1" for i in range(2000)),
)


def test_the_document_holds_through_nginx(stack: Stack) -> None:
    """Whatever is sent, Nginx or a replica answers as the document says, and neither fails at anything."""
    schema = schemathesis.openapi.from_url(f"{stack.address}/openapi.json", config=config())
    found = fuzz(schema)
    print(found)
    assert not found.failures
    assert found.succeeded == operations(schema)


@pytest.mark.parametrize("path", BODIES)
def test_odd_headers_are_answered_as_the_document_says(stack: Stack, path: str) -> None:
    """Whatever header a request has, its answer has a status and a media type that the document knows, and no 5xx."""
    _, document = stack.get("/openapi.json")
    responses = document["paths"][path]["post"]["responses"]
    for header in HEADERS:
        status, answer = answered(stack, path, header)
        assert status < 500, header
        assert answer.get_content_type() in responses[str(status)]["content"], header


def answered(stack: Stack, path: str, header: str) -> tuple[int, Message]:
    """Post with one more header; the status and the headers of the answer."""
    body = json.dumps(BODIES[path]).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", header]
    if "Content-Type:" not in header:
        lines.append("Content-Type: application/json")
    if "Transfer-Encoding:" in header:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif "Content-Length:" not in header:
        lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "\r\n"]).encode("latin-1") + body)
        answer = connection.makefile("rb")
        status = int(answer.readline().split()[1])
        return status, BytesHeaderParser().parse(answer)
