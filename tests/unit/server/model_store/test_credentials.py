"""What opens the registry, read from files for the resolver alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from server.errors import RegistryError, SettingsError
from server.model_store.credentials import with_credentials
from server.model_store.resolve import resolve_in_child
from tests.support.servers import serving_thread


class _Asked(BaseHTTPRequestHandler):
    """A registry that remembers who asked, and refuses."""

    tokens: list[str | None]

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        """Nothing to the tests' output."""


@pytest.fixture
def registry() -> Iterator[HTTPServer]:
    _Asked.tokens = []
    with serving_thread(HTTPServer(("127.0.0.1", 0), _Asked)) as one:
        yield one


def test_missing_credentials_variable_changes_nothing() -> None:
    """Where no file is named, the environment stays as it is."""
    assert with_credentials({"MLFLOW_TRACKING_TOKEN": "told", "A": "b"}) == {"MLFLOW_TRACKING_TOKEN": "told", "A": "b"}


def test_file_content_overrides_the_variable(tmp_path: Path) -> None:
    """A file's content without the line break at its end comes before the variable itself."""
    (tmp_path / "token").write_text("from a file \n")
    environ = {"MLFLOW_TRACKING_TOKEN": "told", "MLFLOW_TRACKING_TOKEN_FILE": str(tmp_path / "token")}
    assert with_credentials(environ) == {**environ, "MLFLOW_TRACKING_TOKEN": "from a file "}


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_file_without_a_secret(tmp_path: Path, content: bytes | None) -> None:
    """A file that is not there, empty or no text stops the start, by name and without what is in it."""
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^MLFLOW_TRACKING_PASSWORD_FILE='{path}': ") as refused:
        with_credentials({"MLFLOW_TRACKING_PASSWORD_FILE": str(path)})
    assert "\n" not in str(refused.value)


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    """A named pipe, which would keep its reader waiting for ever, stops the start by name."""
    path = tmp_path / "token"
    os.mkfifo(path)
    with pytest.raises(SettingsError, match=f"^MLFLOW_TRACKING_TOKEN_FILE='{path}': .*regular file"):
        with_credentials({"MLFLOW_TRACKING_TOKEN_FILE": str(path)})


def test_registry_receives_the_token_of_the_file(tmp_path: Path, registry: HTTPServer) -> None:
    """The registry gets the token of the file, which this process's own environment has not."""
    (tmp_path / "token").write_text("from-a-file")
    address = f"http://127.0.0.1:{registry.server_port}"
    environ = {
        **os.environ,
        "VAR_DIR": str(tmp_path),
        "MODEL_URI": "models:/any/1",
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_TOKEN_FILE": str(tmp_path / "token"),
    }
    with pytest.raises(RegistryError, match="403"):
        resolve_in_child(environ)
    assert set(_Asked.tokens) == {"Bearer from-a-file"}
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ
