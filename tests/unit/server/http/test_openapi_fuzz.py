"""What the OpenAPI document says holds, for thousands of requests that it allows and forbids, sent to the app itself.

CI sends few requests of one seed. Tens of thousands, of another:

    FUZZ_EXAMPLES=5000 FUZZ_SEED=1 .venv/bin/python -m pytest -s tests/unit/server/http/test_openapi_fuzz.py

and through Nginx and Gunicorn the same with tests/e2e/test_openapi_fuzz.py. What they sent is printed (``-s``).
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
    """Whatever is sent, the app answers as its document says: it takes what that allows, and fails at nothing."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(SETTINGS, make()), config=config())
    found = fuzz(schema)
    print(found)
    assert not found.failures
    assert found.succeeded == operations(schema)
