"""Requests generated from the OpenAPI document, valid and invalid, sent to the app itself with Schemathesis.

CI sends a few requests with a fixed seed. To send tens of thousands with another seed:

    FUZZ_EXAMPLES=5000 FUZZ_SEED=1 .venv/bin/python -m pytest -s tests/unit/server/http/test_openapi_fuzz.py

tests/e2e/test_openapi_fuzz.py sends them through Nginx and Gunicorn. A summary of the requests is printed (``-s``).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import schemathesis

from server.http.app import create_app
from server.inference.model import Model
from server.settings import Settings
from tests.support.fuzzing import config, fuzz, operations
from tests.support.models import small_models

SETTINGS = Settings.from_env({"REPLICA": "one", "MAX_BODY_BYTES": "100000", "MAX_PENDING": "50"})


@pytest.mark.parametrize("make", [small_models.covertype, small_models.mixed, small_models.regressor])
def test_responses_to_any_request_match_the_document(make: Callable[[], Model]) -> None:
    """Every response to a generated request matches the document, and none is a 500."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(SETTINGS, make()), config=config())
    report = fuzz(schema)
    print(report)
    assert not report.failures
    assert report.succeeded == operations(schema)
