"""Tests of the light client in a separate process with gevent's sockets, against a scripted server."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.settings import ROOT
from tests.support.ports import free_port

_CLIENT = """
from gevent import monkey; monkey.patch_all()
import json, sys, time
from connection import Address, Connection
from failures import Failure
port, times, size = map(int, sys.argv[1:])
connection = Connection(Address(2, ("127.0.0.1", port)), timeout=1)
results = []
for _ in range(times):
    try:
        status, body = connection.exchange(b"POST / HTTP/1.1\\r\\nContent-Length: %d\\r\\n\\r\\n" % size + bytes(size))
        results.append([status, body.decode()])
    except Failure as failure:
        results.append(str(failure))
    time.sleep(0.1)
connection.close()
print(json.dumps(results))
"""
# The action of the server after an answer.
KEEP, CLOSE, RESET, HANG = "keep", "close", "reset", "hang"
Reply = tuple[bytes, str]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
OK_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
TRUNCATED = OK[:-1]
ANSWER = [200, "hi"]


def read_request(connection: socket.socket) -> bool:
    """Read a request; return False if the client closed the connection instead."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (part := connection.recv(65536))
        if not part:
            return False
    head, body = data.split(b"\r\n\r\n", 1)
    remaining = int(head.rpartition(b" ")[2]) - len(body)
    while remaining:
        remaining -= len(connection.recv(65536))
    return True


def play(connection: socket.socket, replies: list[Reply]) -> None:
    for data, action in replies:
        assert read_request(connection)
        connection.sendall(data)
        if action == HANG:
            assert not connection.recv(1)  # until the client closes the connection
        elif action == RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def server(script: list[list[Reply]]) -> Iterator[int]:
    """Serve one connection after another with the replies of the script, all of which must be used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        remaining = list(script)

        def serve() -> None:
            while remaining:
                with listener.accept()[0] as connection:
                    connection.settimeout(20)
                    play(connection, remaining.pop(0))

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()
        assert not remaining


def exchanges(port: int, times: int, size: int = 0) -> list[object]:
    """Send ``times`` requests of the light client, and return the answer or the name of the failure of each."""
    ran = subprocess.run(
        [sys.executable, "-c", _CLIENT, str(port), str(times), str(size)],
        cwd=ROOT / "locust", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    results: list[object] = json.loads(ran.stdout)
    return results


@pytest.mark.parametrize(
    ("script", "results"),
    [
        pytest.param([[(OK, KEEP), (CHUNKED, KEEP), (BUSY, KEEP)]], [ANSWER, ANSWER, [503, "busy"]], id="kept alive"),
        pytest.param([[(OK_CLOSE, CLOSE)], [(OK, CLOSE)]], [ANSWER, ANSWER], id="closed as announced"),
        pytest.param([[(OK, CLOSE)], [(OK, CLOSE)]], [ANSWER, ANSWER], id="closed while idle"),
        pytest.param([[(OK, RESET)], [(OK, CLOSE)]], [ANSWER, ANSWER], id="reset while idle"),
        pytest.param([[(OK, KEEP), (b"", CLOSE)], [(b"", CLOSE)]], [ANSWER, "closed"], id="closed on resend"),
        pytest.param([[(b"", CLOSE)], [(OK, CLOSE)]], ["closed", ANSWER], id="closed at once"),
        pytest.param([[(TRUNCATED, CLOSE)], [(OK, CLOSE)]], ["closed", ANSWER], id="closed within an answer"),
        pytest.param([[(OK, KEEP), (TRUNCATED, CLOSE)]], [ANSWER, "closed"], id="closed within a later answer"),
        pytest.param([[(TRUNCATED, RESET)], [(OK, CLOSE)]], ["reset", ANSWER], id="reset within an answer"),
        pytest.param([[(b"", HANG)], [(OK, CLOSE)]], ["timeout", ANSWER], id="no answer"),
        pytest.param([[(TRUNCATED, HANG)], [(OK, CLOSE)]], ["timeout", ANSWER], id="truncated answer"),
        pytest.param([[(b"SSH-2.0\r\n", KEEP)], [(OK, CLOSE)]], ["malformed", ANSWER], id="not HTTP"),
    ],
)
def test_requests_are_resent_only_after_an_idle_close(script: list[list[Reply]], results: list[object]) -> None:
    """Each failure has a name and leads to a new connection; a request is resent only if an idle connection closed."""
    with server(script) as port:
        assert exchanges(port, len(results)) == results


def test_large_requests_are_sent_whole() -> None:
    """A request that is larger than the socket's buffer arrives completely."""
    with server([[(OK, KEEP), (OK, KEEP)]]) as port:
        assert exchanges(port, 2, size=20_000_000) == [ANSWER, ANSWER]


def test_refused_connection_is_reported_each_time() -> None:
    """Each request on a refused connection is reported as refused."""
    assert exchanges(free_port(), 2) == ["refused", "refused"]
