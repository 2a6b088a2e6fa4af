"""Ports, asked of the kernel."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from deploy.errors import CommandError
from deploy.stack import ports
from tests.support.ports import free_port, port_in_use


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with port_in_use() as port:
        yield port


@pytest.fixture
def free(taken: int) -> int:
    """A port that nobody listens on."""
    port = free_port()
    assert port != taken
    return port


def test_free_port_is_taken_as_wanted(free: int) -> None:
    """A port that may be listened on is accepted, and asking leaves it free."""
    for _ in range(2):
        ports.check_free("127.0.0.1", free, "LOCUST_PORT")


def test_used_port_is_refused_with_its_variable(taken: int) -> None:
    """A port that somebody listens on is refused, with the variable that moves us elsewhere."""
    with pytest.raises(CommandError) as caught:
        ports.check_free("127.0.0.1", taken, "HTTP_PORT")
    assert str(caught.value) == f"port {taken} is in use by another program; choose another with HTTP_PORT="


def test_wildcard_meets_a_listener(taken: int) -> None:
    """All addresses cannot be had where one of them is taken."""
    with pytest.raises(CommandError, match=f"port {taken} is in use"):
        ports.check_free("0.0.0.0", taken, "HTTP_PORT")  # noqa: S104


def test_connections_that_wind_up_do_not_count() -> None:
    """A port of the last run, with connections in TIME_WAIT, is free."""
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
    """A host that does not exist, or is not of this machine, is named with the reason."""
    with pytest.raises(CommandError, match=f"^{host}:{free} cannot be listened on: {reason}; see HTTP_PORT=$"):
        ports.check_free(host, free, "HTTP_PORT")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """What the kernel says of each port: whether 80 may be bound depends on who runs the tests."""
    codes: dict[int, int] = {}
    monkeypatch.setattr(ports, "_error", lambda _host, port: codes.get(port, 0))
    return codes


def test_default_is_80(answers: dict[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    """The default port is 80, silently, even where somebody listens there: that is refused when it is checked."""
    for code in (0, errno.EADDRINUSE):
        answers[80] = code
        assert ports.default("127.0.0.1", *ports.HTTP) == 80
    assert capsys.readouterr().out == ""


def test_8080_where_80_may_not_be_bound(answers: dict[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    """A user who may not bind 80 gets 8080 and is told so; a wish for 80 itself is refused."""
    answers[80] = errno.EACCES
    assert ports.default("127.0.0.1", *ports.HTTP) == 8080
    assert capsys.readouterr().out == "port 80 may not be bound by this user: Nginx listens on 8080\n"
    with pytest.raises(CommandError, match=r"^127.0.0.1:80 cannot be listened on: EACCES; see HTTP_PORT=$"):
        ports.check_free("127.0.0.1", 80, "HTTP_PORT")


def test_used_port_is_refused_for_others_too(taken: int) -> None:
    """A port that somebody listens on cannot be the engine's either, and the variable is named."""
    with pytest.raises(CommandError) as caught:
        ports.check_unused("127.0.0.1", taken, "LOCUST_PORT")
    assert str(caught.value) == f"port {taken} is in use by another program; choose another with LOCUST_PORT="


@pytest.mark.parametrize("code", [0, errno.EACCES, errno.EADDRNOTAVAIL])
def test_unused_port_is_for_somebody_else(code: int, answers: dict[int, int]) -> None:
    """A port that the engine is to listen on may be one that this user cannot have."""
    answers[80] = code
    ports.check_unused("127.0.0.1", 80, "HTTP_PORT")
