"""What a start tells of a service that others can reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.security.exposure import description, warning
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack

LOCKED = Stack(
    http_host="::",
    environment={"API_KEYS_FILE": "/no/keys"},
    tls_cert="/tls.crt",
    tls_key="/tls.key",
    client_requests=20,
    client_connections=5,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_nobody_else_can_reach_it(host: str) -> None:
    """On loopback a service needs no lock."""
    assert warning(Stack(http_host=host)) is None


def test_what_is_missing_is_named() -> None:
    """One line names each lock that is missing, and none where all are there."""
    keys, tls = "API keys (API_KEYS_FILE)", "TLS (TLS_CERT, TLS_KEY)"
    limits = "limits per client (CLIENT_REQUESTS, CLIENT_CONNECTIONS)"
    told = "others can reach it, at ::: it has no "
    assert warning(Stack(http_host="::")) == f"{told}{keys}, {tls} and {limits}"
    assert warning(replace(LOCKED, tls_cert="")) == told + tls
    assert (
        warning(replace(LOCKED, environment={}, client_requests=0, client_connections=0))
        == f"{told}{keys} and {limits}"
    )
    assert warning(replace(LOCKED, client_requests=0)) is None
    assert warning(LOCKED) is None


def test_description_lists_keys_tls_and_limits(tmp_path: Path) -> None:
    """`make status` tells every lock."""
    layout = Layout(tmp_path)
    assert description(Stack(), layout) == "no API keys, no TLS, no limits per client"
    file = tmp_path / "keys"
    file.write_text("the-key-of-the-first-client\n")
    told = description(replace(LOCKED, environment={"API_KEYS_FILE": str(file)}), layout)
    assert told.startswith(f"API keys of {file}, TLS, but TLS_CERT=")
    assert told.endswith(", 20 requests/s and 5 connections a client")


def test_status_warns_of_an_invalid_key_file(tmp_path: Path) -> None:
    """`make status` says that a file of keys which is bad now is not the one that replicas go by, and why."""
    layout = Layout(tmp_path)
    assert "API keys read BEFORE, for API_KEYS_FILE='/no/keys': it cannot be read" in description(LOCKED, layout)
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    (folder / "keys").write_text("the-key-of-the-first-client\n")
    (folder / "keys").chmod(0o600)
    stack = Stack(backend="docker", environment={"API_KEYS_FILE": str(folder / "keys")})
    assert "replicas run as user and group 10001" in description(stack, layout)
    assert description(replace(stack, backend="local"), layout).startswith("API keys of ")
