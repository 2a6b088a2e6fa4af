"""What the verbs learn of a service by asking it: who answers, and whether it predicts its own example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.rollout import replica_client
from tests.support.servers import serving_thread

NOTE = "the example is made up from the columns: the model was logged without input_example"


def service(monkeypatch: pytest.MonkeyPatch, status: int, **index: Any) -> None:
    """Let the address answer its index and then the prediction."""

    def ask(
        _address: str, method: str, _target: str, document: object = None, _access: object = None
    ) -> tuple[int, Any]:
        if method == "GET":
            return 200, {"example": {"POST /predict": {"x": 1}}, **index}
        assert document == {"x": 1}
        return status, {"detail": "city must be one of four"}

    monkeypatch.setattr(replica_client, "ask_address", ask)


def test_successful_example_prediction_has_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that predicts its example needs no words, whoever made the example."""
    for index in ({}, {"note": NOTE}):
        service(monkeypatch, 200, **index)
        assert replica_client.predict_example("http://127.0.0.1:1") is None


@pytest.mark.parametrize("status", [422, 500])
def test_failed_generated_example_is_not_a_failure(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """An example that was made up may be one that the model does not take: that is told, and is no failure."""
    service(monkeypatch, status, note=NOTE)
    told = replica_client.predict_example("http://127.0.0.1:1") or ""
    assert f"was answered with {status}: city must be one of four; log the model with input_example=" in told


@pytest.mark.parametrize(("status", "index"), [(500, {}), (422, {}), (503, {"note": NOTE}), (0, {"note": NOTE})])
def test_failed_logged_example_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, status: int, index: dict[str, str]
) -> None:
    """A model that does not predict the example it was logged with, or does not answer at all, is a failure."""
    service(monkeypatch, status, **index)
    with pytest.raises(CommandError, match=f"the model's own example was answered with {status}"):
        replica_client.predict_example("http://127.0.0.1:1")


def test_rate_limited_example_is_reported_after_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is busy with others of this machine is asked again, and in the end believed to serve them."""
    service(monkeypatch, 429)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert "was answered with 429" in (replica_client.predict_example("http://127.0.0.1:1") or "")


@contextmanager
def answering(status: int, **headers: str) -> Iterator[str]:
    """The address of somebody who gives this answer to everything, and remembers nothing."""

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
    """Every answer names the replica, whichever of its workers it was, and the version that it serves."""
    with answering(status, X_Served_By="replica-2/17", X_Model_Version="3") as address:
        assert replica_client.marks(address) == replica_client.Marks("replica-2", "3")


def test_marks_of_somebody_else() -> None:
    """Who is no replica has no version."""
    with answering(502, X_Served_By="nginx/4711") as address:
        assert replica_client.marks(address) == replica_client.Marks("nginx", "")
    with answering(404) as address:
        assert replica_client.marks(address) == replica_client.Marks()


def test_unreachable_service_has_no_marks() -> None:
    """Where nobody listens, there are none."""
    with answering(200) as address:
        pass
    assert replica_client.marks(address) == replica_client.Marks()
