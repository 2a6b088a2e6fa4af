"""Fuzz tests of the OpenAPI document through Nginx and Gunicorn."""

from __future__ import annotations

import json
import socket
from email.message import Message
from email.parser import BytesHeaderParser

import pytest
import schemathesis

from tests.support.fuzzing import config, exclude_large_numbers, fuzz, operations
from tests.support.stacks.local import Stack
from tests.support.stress.load import WORKSHOP_ROW

pytestmark = pytest.mark.xdist_group("stack")

V2 = {"inputs": [{"name": "all", "shape": [1, 12], "datatype": "FP64", "data": list(WORKSHOP_ROW.values())}]}
BODIES: dict[str, object] = {
    "/predict": WORKSHOP_ROW,
    "/invocations": {"instances": [WORKSHOP_ROW]},
    "/v2/models/covertype/infer": V2,
}
# Each header is added to an otherwise valid request; its own Content-Length or Content-Type replaces the valid one.
HEADERS = (
    *(
        f"Content-Type: {media_type}"
        for media_type in ("", "\xff\xfe", "A" * 3000, "application/json; charset=latin-1", "*/*", "a\0b")
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


def test_answers_match_the_document_through_nginx(stack: Stack) -> None:
    """Nginx and replicas answer all fuzzed requests as the document says, and each operation succeeds at least once."""
    schema = schemathesis.openapi.from_url(f"{stack.address}/openapi.json", config=config())
    exclude_large_numbers(schema)
    result = fuzz(schema)
    print(result)
    assert not result.failures
    assert result.succeeded == operations(schema)


@pytest.mark.parametrize("path", BODIES)
def test_unusual_headers_are_answered_as_the_document_says(stack: Stack, path: str) -> None:
    """A request with an unusual header gets a status below 500 and a media type that the document lists."""
    _, document = stack.get("/openapi.json")
    responses = document["paths"][path]["post"]["responses"]
    for header in HEADERS:
        status, answer = post(stack, path, header)
        assert status < 500, header
        assert answer.get_content_type() in responses[str(status)]["content"], header


def post(stack: Stack, path: str, header: str) -> tuple[int, Message]:
    """Post a valid body with one more header, and return the status and the headers of the answer."""
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
