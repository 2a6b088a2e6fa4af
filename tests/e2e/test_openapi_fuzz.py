"""What the OpenAPI document says holds through Nginx and Gunicorn, too; see tests/test_openapi_fuzz.py."""

from __future__ import annotations

import schemathesis

from tests.e2e.conftest import Stack
from tests.fuzzing import config, fuzz, operations


def test_the_document_holds_through_nginx(stack: Stack) -> None:
    """Whatever is sent, Nginx or a replica answers as the document says, and neither fails at anything."""
    schema = schemathesis.openapi.from_url(f"{stack.address}/openapi.json", config=config())
    found = fuzz(schema)
    print(found)
    assert not found.failures
    assert found.predicted == operations(schema)
