"""Tests of the HTTP requests to a running stack: which replica answers, and whether the model predicts its example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.rollout import replica_client
from tests.support.servers import serving_thread

NOTE = "the example was generated: the model was logged without input_example"


def fake_service(monkeypatch: pytest.MonkeyPatch, status: int, **index: Any) -> None:
    """Answer `GET /` with this index, and a prediction with this status."""

    def answer(
        _address: str, method: str, _target: str, document: object = None, _access: object = None
    ) -> tuple[int, Any]:
        if method == "GET":
            return 200, {"example": {"POST /predict": {"x": 1}}, **index}
        assert document == {"x": 1}
        return status, {"detail": "city must be one of four"}

    monkeypatch.setattr(replica_client, "request_json", answer)


def test_successful_example_prediction_has_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predicted example leaves nothing to report, whether it was logged with the model or generated."""
    for index in ({}, {"note": NOTE}):
        fake_service(monkeypatch, 200, **index)
        assert replica_client.predict_example("http://127.0.0.1:1") is None


@pytest.mark.parametrize("status", [422, 500])
def test_failed_generated_example_is_not_a_failure(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A generated example may be invalid for the model, so an error for it is only a note."""
    fake_service(monkeypatch, status, note=NOTE)
    note = replica_client.predict_example("http://127.0.0.1:1") or ""
    assert f"got status {status}: city must be one of four; log the model with input_example=" in note


@pytest.mark.parametrize(("status", "index"), [(500, {}), (422, {}), (503, {"note": NOTE}), (0, {"note": NOTE})])
def test_failed_logged_example_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, status: int, index: dict[str, str]
) -> None:
    """A model that does not predict the example that it was logged with, or does not answer at all, has failed."""
    fake_service(monkeypatch, status, **index)
    outcome = f"got status {status}" if status else "got no answer"
    with pytest.raises(CommandError, match=f"the model's own example {outcome}"):
        replica_client.predict_example("http://127.0.0.1:1")


def test_rate_limited_example_is_reported_after_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that stays above the limit of this machine's address is repeated, and then noted but not a failure."""
    fake_service(monkeypatch, 429)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert "got status 429" in (replica_client.predict_example("http://127.0.0.1:1") or "")


@contextmanager
def answering(status: int, **headers: str) -> Iterator[str]:
    """Yield the address of a server that gives this answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/ready"
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (http.server's)
            pass

    with serving_thread(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("status", [200, 503])
def test_headers_identify_replica_and_version(status: int) -> None:
    """The headers of every answer name the replica, without its worker, and the version that it serves."""
    with answering(status, X_Served_By="replica-2/17", X_Model_Version="3") as address:
        assert replica_client.identify(address) == replica_client.Identity("replica-2", "3")


def test_answer_of_another_server_has_no_version() -> None:
    """An answer without the headers of a replica, such as one from Nginx itself, identifies no model version."""
    with answering(502, X_Served_By="nginx/4711") as address:
        assert replica_client.identify(address) == replica_client.Identity("nginx", "")
    with answering(404) as address:
        assert replica_client.identify(address) == replica_client.Identity()


def test_unreachable_service_has_an_empty_identity() -> None:
    """An address where nothing listens gives an empty identity."""
    with answering(200) as address:
        pass
    assert replica_client.identify(address) == replica_client.Identity()
