"""Tests of the checks whether a port is free."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from deploy.errors import CommandError
from deploy.stack import ports
from tests.support.ports import free_port, port_in_use


@pytest.fixture
def used() -> Iterator[int]:
    """A port that a socket listens on."""
    with port_in_use() as port:
        yield port


@pytest.fixture
def free(used: int) -> int:
    """A port that no socket listens on."""
    port = free_port()
    assert port != used
    return port


def test_free_port_is_accepted_and_stays_free(free: int) -> None:
    """A free port is accepted, and the check leaves it free."""
    for _ in range(2):
        ports.check_free("127.0.0.1", free, "LOCUST_PORT")


def test_used_port_is_refused_with_its_variable(used: int) -> None:
    """A port in use is refused with the variable that sets it."""
    with pytest.raises(CommandError) as caught:
        ports.check_free("127.0.0.1", used, "HTTP_PORT")
    assert str(caught.value) == f"port {used} is in use by another program; choose another with HTTP_PORT="


def test_port_in_use_at_one_address_is_refused_for_the_wildcard(used: int) -> None:
    """The wildcard address is refused if the port is in use at one address."""
    with pytest.raises(CommandError, match=f"port {used} is in use"):
        ports.check_free("0.0.0.0", used, "HTTP_PORT")  # noqa: S104


def test_connections_in_time_wait_leave_the_port_free() -> None:
    """A port whose connections are in TIME_WAIT counts as free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Nginx does
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()
            assert client.recv(1) == b""
    ports.check_free("127.0.0.1", port, "HTTP_PORT")


@pytest.mark.parametrize(
    ("host", "reason"),
    [("host.invalid", "unknown host"), ("192.0.2.1", "EADDRNOTAVAIL"), ("2001:db8::1", "E[A-Z]+")],
)
def test_foreign_host_address_is_refused(host: str, reason: str, free: int) -> None:
    """The error for an unknown host, or one of another machine, names the reason."""
    with pytest.raises(CommandError, match=f"^cannot listen on {host}:{free}: {reason}; choose another port with"):
        ports.check_free(host, free, "HTTP_PORT")


@pytest.fixture
def bind_errors(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Fake results of binding by port, since the result for port 80 depends on the user who runs the tests."""
    codes: dict[int, int] = {}
    monkeypatch.setattr(ports, "_bind_error", lambda _host, port: codes.get(port, 0))
    return codes


def test_default_port_is_80(bind_errors: dict[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    """The default port is 80 without a message, also if the port is in use; a later check refuses that."""
    for code in (0, errno.EADDRINUSE):
        bind_errors[80] = code
        assert ports.default("127.0.0.1", *ports.HTTP) == 80
    assert capsys.readouterr().out == ""


def test_default_port_is_8080_for_unprivileged_users(
    bind_errors: dict[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A user who may not bind port 80 gets 8080 with a message, and an error for port 80 itself."""
    bind_errors[80] = errno.EACCES
    assert ports.default("127.0.0.1", *ports.HTTP) == 8080
    assert capsys.readouterr().out == "this user may not listen on port 80: Nginx listens on 8080\n"
    with pytest.raises(CommandError, match=r"^cannot listen on 127.0.0.1:80: EACCES; choose another .* HTTP_PORT=$"):
        ports.check_free("127.0.0.1", 80, "HTTP_PORT")


def test_check_unused_refuses_a_port_in_use(used: int) -> None:
    """A port in use is also refused for a program such as Docker, with the variable that sets it."""
    with pytest.raises(CommandError) as caught:
        ports.check_unused("127.0.0.1", used, "LOCUST_PORT")
    assert str(caught.value) == f"port {used} is in use by another program; choose another with LOCUST_PORT="


@pytest.mark.parametrize("code", [0, errno.EACCES, errno.EADDRNOTAVAIL])
def test_check_unused_accepts_a_port_this_user_cannot_bind(code: int, bind_errors: dict[int, int]) -> None:
    """A port for a program such as Docker is accepted even if this user cannot listen on it."""
    bind_errors[80] = code
    ports.check_unused("127.0.0.1", 80, "HTTP_PORT")
