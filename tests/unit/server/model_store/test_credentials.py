"""Tests of registry credentials, which only the resolver's process gets, from files."""

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


class _RefusingRegistry(BaseHTTPRequestHandler):
    """A registry that records the Authorization header of each request, and answers 403."""

    tokens: list[str | None]

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        """Keep the log out of the tests' output."""


@pytest.fixture
def registry() -> Iterator[HTTPServer]:
    _RefusingRegistry.tokens = []
    with serving_thread(HTTPServer(("127.0.0.1", 0), _RefusingRegistry)) as server:
        yield server


def test_missing_credentials_variable_changes_nothing() -> None:
    """The environment is unchanged if no variable names a file."""
    environ = {"MLFLOW_TRACKING_TOKEN": "from a variable", "A": "b"}
    assert with_credentials(environ) == environ


def test_file_content_overrides_the_variable(tmp_path: Path) -> None:
    """The content of a file, without the line break at its end, overrides the variable."""
    (tmp_path / "token").write_text("from a file \n")
    environ = {"MLFLOW_TRACKING_TOKEN": "from a variable", "MLFLOW_TRACKING_TOKEN_FILE": str(tmp_path / "token")}
    assert with_credentials(environ) == {**environ, "MLFLOW_TRACKING_TOKEN": "from a file "}


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_file_without_a_secret_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or binary file is refused with its variable and path, and without its content."""
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^MLFLOW_TRACKING_PASSWORD_FILE='{path}': ") as refused:
        with_credentials({"MLFLOW_TRACKING_PASSWORD_FILE": str(path)})
    assert "\n" not in str(refused.value)


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    """A named pipe, on which a reader would block, is refused with its variable and path."""
    path = tmp_path / "token"
    os.mkfifo(path)
    with pytest.raises(SettingsError, match=f"^MLFLOW_TRACKING_TOKEN_FILE='{path}': .*regular file"):
        with_credentials({"MLFLOW_TRACKING_TOKEN_FILE": str(path)})


def test_registry_receives_the_token_of_the_file(tmp_path: Path, registry: HTTPServer) -> None:
    """The registry receives the token of the file, which is not in the environment of this process."""
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
    assert set(_RefusingRegistry.tokens) == {"Bearer from-a-file"}
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ
