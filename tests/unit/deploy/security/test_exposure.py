"""Tests of the texts about the protection of a service that other machines can reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.security.exposure import description, warning
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack

PROTECTED = Stack(
    http_host="::",
    environment={"API_KEYS_FILE": "/no/keys"},
    tls_cert="/tls.crt",
    tls_key="/tls.key",
    client_requests=20,
    client_connections=5,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_service_needs_no_warning(host: str) -> None:
    """A service that listens on a loopback address gets no warning."""
    assert warning(Stack(http_host=host)) is None


def test_warning_names_missing_protection() -> None:
    """The warning names each missing protection, and there is none if nothing is missing."""
    keys, tls = "API keys (API_KEYS_FILE)", "TLS (TLS_CERT, TLS_KEY)"
    limits = "limits per client (CLIENT_REQUESTS, CLIENT_CONNECTIONS)"
    prefix = "Nginx listens on ::, so other machines can reach the service, and it has no "
    assert warning(Stack(http_host="::")) == f"{prefix}{keys}, {tls} or {limits}"
    assert warning(replace(PROTECTED, tls_cert="")) == prefix + tls
    assert (
        warning(replace(PROTECTED, environment={}, client_requests=0, client_connections=0))
        == f"{prefix}{keys} or {limits}"
    )
    assert warning(replace(PROTECTED, client_requests=0)) is None
    assert warning(PROTECTED) is None


def test_description_lists_keys_tls_and_limits(tmp_path: Path) -> None:
    """The line for `make status` names the API keys, TLS and the limits per client."""
    layout = Layout(tmp_path)
    assert description(Stack(), layout) == "no API keys, no TLS, no limits per client"
    file = tmp_path / "keys"
    file.write_text("the-key-of-the-first-client\n")
    text = description(replace(PROTECTED, environment={"API_KEYS_FILE": str(file)}), layout)
    assert text.startswith(f"API keys of {file}, TLS, but TLS_CERT=")
    assert text.endswith(", 20 requests/s and 5 connections per client")


def test_status_warns_of_an_invalid_key_file(tmp_path: Path) -> None:
    """The line for `make status` says if replicas cannot reload the file of keys, and why."""
    layout = Layout(tmp_path)
    assert "replicas cannot reload it: API_KEYS_FILE='/no/keys': cannot read" in description(PROTECTED, layout)
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    (folder / "keys").write_text("the-key-of-the-first-client\n")
    (folder / "keys").chmod(0o600)
    stack = Stack(backend="docker", environment={"API_KEYS_FILE": str(folder / "keys")})
    assert "replicas run as user and group 10001" in description(stack, layout)
    assert description(replace(stack, backend="local"), layout).startswith("API keys of ")
