"""Tests of Nginx's configuration with the real Nginx."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest

from deploy.backends.local import nginx
from deploy.backends.local.slots import SLOTS, replica_socket
from deploy.errors import CommandError
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.settings import Settings
from tests.support.options import options
from tests.support.ports import free_port, port_in_use
from tests.support.raw_http import ask, short_path
from tests.support.servers import serving_thread

UPSTREAM = (ROOT / "nginx/upstream-local.conf").read_text()


@pytest.fixture(params=["var", "a folder of 'ours'"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / str(request.param))
    layout.make()
    return layout


@pytest.fixture
def binary() -> str:
    """The path of Nginx, which root installs if it is missing; otherwise the error names the command."""
    return nginx.find_nginx()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def directives(text: str) -> str:
    """Return a configuration without its comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", "::1", "::"])  # noqa: S104
def test_nginx_accepts_the_configuration(host: str, layout: Layout, binary: str) -> None:
    """Nginx accepts the configuration of a stack for IPv4 and IPv6 addresses and host names."""
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    port = free_port()
    text = nginx.write_config(layout, Stack(http_host=host, http_port=port))
    bracketed = f"[{host}]" if ":" in host else host
    assert f"listen {bracketed}:{port} backlog=4096;" in text
    nginx.check_config(binary, layout)


def test_default_port_is_80(layout: Layout) -> None:
    """Nginx listens on port 80 if the stack has no port."""
    assert "listen 127.0.0.1:80 backlog" in nginx.write_config(layout, Stack())


def test_every_template_variable_is_replaced(layout: Layout) -> None:
    """No ${NAME} of the templates remains, and the settings of the stack are in the configuration."""
    stack = Stack(http_port=8080, environment={"MAX_BODY_BYTES": "4321"})
    text = nginx.write_config(layout, stack)
    assert re.findall(r"\$\{[A-Z_]+\}", (ROOT / "nginx/nginx.conf").read_text())
    assert not re.findall(r"\$\{[A-Z_]+\}", directives(text))
    assert "client_max_body_size 4321;" in text
    assert "the body is larger than 4321 bytes" in text
    assert f"proxy_next_upstream_tries {2 * SLOTS};" in text
    files = ("nginx.conf", "door-plain.conf", "service.conf", "problems.conf", "upstream.conf")
    assert text == "".join((layout.var / "nginx" / name).read_text() for name in files)


def test_configuration_depends_only_on_the_stack(layout: Layout) -> None:
    """The same stack gives the same text and another port another one, by which a change is detected."""
    original = nginx.write_config(layout, Stack(http_port=8080))
    assert nginx.write_config(layout, Stack(http_port=8080, replicas=3)) == original
    assert nginx.write_config(layout, Stack(http_port=8081)) != original


@pytest.mark.parametrize("limits", [{}, {"CLIENT_REQUESTS": "5"}, {"CLIENT_CONNECTIONS": "7"}])
@pytest.mark.parametrize("tls", [False, True])
def test_nginx_accepts_tls_and_limits(layout: Layout, binary: str, limits: dict[str, str], *, tls: bool) -> None:
    """Nginx accepts TLS and limits per client in every combination, and what is off is not in the configuration."""
    settings = {"TLS_CERT": "/tls.crt", "TLS_KEY": "/tls.key", "HTTPS_PORT": "8443"} if tls else {}
    stack = Stack(http_port=free_port()).changed(options(**limits | settings))
    text = nginx.write_config(layout, stack, nginx.version_of(binary))
    nginx.check_config(binary, layout)
    active = directives(text)
    assert not re.findall(r"\$\{[A-Z0-9_]+\}", active)
    assert ("ssl_certificate" in active) is tls
    assert ("limit_req zone=requests burst=5 nodelay;" in active) is ("CLIENT_REQUESTS" in limits)
    assert ("limit_conn connections 7;" in active) is ("CLIENT_CONNECTIONS" in limits)


def test_directives_depend_on_the_version(layout: Layout) -> None:
    """The directives of HTTP/2 and of the certificate cache are those of the version of Nginx."""
    stack = Stack().changed(options(TLS_CERT="/tls.crt", TLS_KEY="/tls.key"))
    old, new = (directives(nginx.write_config(layout, stack, version)) for version in ((1, 22, 1), (1, 30, 0)))
    assert "listen 127.0.0.1:443 backlog=4096 ssl http2;" in old
    assert "http2 on;" not in old
    assert "ssl_certificate_cache" not in old
    assert "listen 127.0.0.1:443 backlog=4096 ssl;" in new
    assert "http2 on;" in new
    assert "ssl_certificate_cache" in new


def test_unknown_nginx_version_counts_as_oldest(binary: str) -> None:
    """A program that prints no version counts as the oldest supported Nginx."""
    assert nginx.version_of(binary) >= nginx.OLDEST_VERSION
    assert nginx.version_of("true") == nginx.OLDEST_VERSION


def test_invalid_configuration_is_an_error(layout: Layout, binary: str) -> None:
    """An invalid configuration is an error of one line with the reason of Nginx."""
    nginx.write_config(layout, Stack(http_port=free_port()))
    (layout.var / "nginx/upstream.conf").write_text("upstream replicas { nonsense; }\n")
    with pytest.raises(CommandError) as caught:
        nginx.check_config(binary, layout)
    message = str(caught.value)
    assert message.startswith("nginx refuses its configuration: ")
    assert 'unknown directive "nonsense"' in message
    assert "\n" not in message


def test_configuration_of_a_port_in_use_can_be_checked(layout: Layout, binary: str) -> None:
    """The configuration can be checked while the running stack listens on its port."""
    with port_in_use() as port:
        nginx.write_config(layout, Stack(http_port=port))
        nginx.check_config(binary, layout)


def test_upstream_has_every_slot() -> None:
    """The upstream has each slot once as a server and once as a backup."""
    slots = [f"unix:{replica_socket(slot)}" for slot in range(1, SLOTS + 1)]
    servers = re.findall(r"^ +server (\S+)(.*);$", directives(UPSTREAM), re.MULTILINE)
    assert [address for address, parameters in servers if "backup" not in parameters] == slots
    assert [address for address, parameters in servers if "backup" in parameters] == slots


def test_nginx_closes_idle_connections_before_the_replica() -> None:
    """Nginx closes an idle connection to a replica earlier than the replica does."""
    match = re.search(r"keepalive_timeout (\d+)s;", directives(UPSTREAM))
    assert match is not None
    assert int(match[1]) < Settings.from_env({}).keep_alive


@contextmanager
def running(
    binary: str, layout: Layout, upstream: str | None = None, change: tuple[str, str] = ("", "")
) -> Iterator[int]:
    """Run Nginx with another upstream, if given, and a changed text in service.conf; yield its port."""
    port = free_port()
    nginx.write_config(layout, Stack(http_port=port))
    config = layout.var / "nginx/service.conf"
    assert change[0] in config.read_text()
    config.write_text(config.read_text().replace(*change) if change[0] else config.read_text())
    if upstream is not None:
        (layout.var / "nginx/upstream.conf").write_text(upstream)
    with subprocess.Popen(nginx.command(binary, layout), cwd=layout.var, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and not listens(port):
                time.sleep(0.01)
            assert process.poll() is None
            yield port
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("upstream", "attempts"),
    [
        (None, r"unix:run/\d\.sock(, unix:run/\d\.sock)*(, replicas)?( : .*)?"),
        ("upstream replicas { zone replicas 64k; server unix:run/1.sock down; }\n", "replicas : replicas"),
    ],
    ids=["slots", "none"],
)
def test_request_without_replica_gets_503_with_retry_after(
    upstream: str | None, attempts: str, method: str, layout: Layout, binary: str
) -> None:
    """Without a replica, requests get 503 with Retry-After, and start again if the list of replicas was empty."""
    with running(binary, layout, upstream) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, "/predict", body=b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        problem = json.loads(answer.read())
        connection.close()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "no replica could take the request; try again",
    }
    (line,) = (layout.logs / "access.log").read_text().splitlines()
    logged = json.loads(line)
    assert (logged["uri"], logged["status"]) == ("/predict", 503)
    assert re.fullmatch(attempts, logged["upstream_addr"]), logged["upstream_addr"]


class Replica(BaseHTTPRequestHandler):
    """A fake replica that answers with the request that it received."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    def do_POST(self) -> None:
        body = self.requestline.encode() + b" " + self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def replica() -> Iterator[int]:
    """The port of the fake replica."""
    with serving_thread(ThreadingHTTPServer(("127.0.0.1", 0), Replica)) as server:
        yield server.server_port


def test_restarted_request_arrives_completely(layout: Layout, binary: str, replica: int) -> None:
    """A request that finds no replica starts again, and its complete body reaches the replica."""
    lists = (
        "upstream replicas { zone replicas 64k; server unix:run/1.sock down; }\n"
        f"upstream second-upstream {{ server 127.0.0.1:{replica}; }}\n"
    )
    # A test cannot change the list between the two attempts, so the second one uses another upstream.
    first, second = "location @again {\n    proxy_pass http://", "replicas;"
    with running(binary, layout, lists, (first + second, first + "second-upstream;")) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/predict", body=b"x" * 100_000)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"POST /predict HTTP/1.1 " + b"x" * 100_000)
        connection.close()
    logged = json.loads((layout.logs / "access.log").read_text())
    assert (logged["method"], logged["status"]) == ("POST", 200)
    assert logged["upstream_addr"].startswith("replicas : 127.0.0.1:")


def upstream_to(port: int) -> str:
    return f"upstream replicas {{ server 127.0.0.1:{port}; }}\n"


SPELLINGS = [
    "GET /metrics",
    "HEAD /metrics",
    "POST /metrics",
    "GET //metrics",
    "GET ///metrics",
    "GET /%6detrics",
    "GET /%6D%65%74%72%69%63%73",
    "GET /metrics/",
    "GET /metrics%2f",
    "GET /metrics%2F..%2fmetrics",
    "GET /metrics/.",
    "GET /metrics/x/..",
    "GET /x/../metrics",
    "GET /x/%2e%2e/metrics",
    "GET /./metrics",
    "GET /%2e/metrics",
    "GET /predict/../metrics",
    "GET /metrics?x",
    "GET /metrics?",
    "GET /metrics%3fx",
    "GET /metrics#x",
    "GET /metrics;x",
    "GET /metrics%0a",
    "GET /metrics%20",
    "GET http://forkcast/metrics",
    "GET http://other//%6detrics?x",
    "GET http://forkcast:80/x/../metrics",
]


def test_metrics_are_not_forwarded_in_any_spelling(layout: Layout, binary: str, replica: int) -> None:
    """Nginx answers every spelling of /metrics with a 404 problem document that says where to read metrics."""
    with running(binary, layout, upstream_to(replica)) as port:
        for spelling in SPELLINGS:
            status, headers, body = ask(port, spelling)
            assert status == 404, spelling
            assert headers["content-type"] == "application/problem+json", spelling
            assert headers["x-served-by"].startswith("nginx/"), spelling
            assert spelling.startswith("HEAD") or json.loads(body) == {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "the load balancer does not forward this path; read the metrics from each replica",
            }


@pytest.mark.parametrize(
    "line",
    [
        "GET /%256detrics",
        "GET /%252e%252e/metrics",
        "GET /METRICS",
        "GET /x/metrics",
        "GET /metric%73x/../../x%2fmetrics",
        "GET //x//metrics",
        "GET /health?/metrics",
        "GET /x%0a/metrics",
        "GET *",
        "GET \\metrics",
        "GET /\\metrics",
        "GET /x metrics",
        "GET /\x00/metrics",
        "GET /\xffmetrics",
    ],
)
def test_disguised_metrics_paths_are_not_forwarded(layout: Layout, binary: str, replica: int, line: str) -> None:
    """A path that Nginx forwards is not /metrics after a replica has decoded it once."""
    with running(binary, layout, upstream_to(replica)) as port:
        status, headers, body = ask(port, line)
    if headers.get("content-type") != "application/problem+json":
        path = urlsplit(f"http://forkcast{body}").path
        assert unquote(path).strip() != "/metrics"
    else:
        assert status in (400, 404)


def test_status_page_is_only_on_the_socket(layout: Layout, binary: str, replica: int) -> None:
    """The counters of Nginx are served on a socket in its folder, and not on its public port."""
    with running(binary, layout, upstream_to(replica)) as port, short_path(layout.var / nginx.STATUS_SOCKET) as inside:
        assert ask(port, "GET /predict")[0] == 200
        status, _, body = ask(inside, "GET /stub_status")
        assert status == 200
        assert re.match(r"Active connections: \d+ \nserver accepts handled requests\n \d+ \d+ \d+ \n", body)
        assert ask(inside, "GET /predict")[0] == 404
        assert ask(port, "GET /stub_status")[2] == "/stub_status"  # forwarded to the replica
    assert "stub_status" not in (layout.logs / "access.log").read_text().splitlines()[0]


def test_nginx_reuses_the_port_after_sigkill(layout: Layout, binary: str) -> None:
    """An Nginx that is started after one was killed with SIGKILL answers on the same port and status socket."""
    port = free_port()
    nginx.write_config(layout, Stack(http_port=port))
    command = [sys.executable, "-m", "deploy.backends.local.takeover", *nginx.command(binary, layout)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for end in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, cwd=layout.var, env=environ, stderr=subprocess.DEVNULL) as process:
            while not psutil.Process(process.pid).children():  # its own workers, not those of the killed Nginx
                assert process.poll() is None
                time.sleep(0.01)
            with short_path(layout.var / nginx.STATUS_SOCKET) as inside:
                assert ask(inside, "GET /stub_status")[0] == 200
            assert listens(port)
            process.send_signal(end)
    assert not listens(port)


def test_installed_nginx_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed Nginx is found in the path, without an installation."""
    program = tmp_path / "nginx"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(nginx, "_PATH", str(tmp_path))
    assert nginx.find_nginx() == str(program)


@pytest.mark.parametrize(("user", "apt"), [(1000, "/usr/bin/apt-get"), (1000, None), (0, None)])
def test_missing_nginx_error_says_how_to_install(user: int, apt: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Nginx is missing and cannot be installed, the error names the command that installs it."""

    def which(name: str, path: str | None = None) -> str | None:
        assert name == "apt-get" or path == nginx._PATH
        return apt if name == "apt-get" else None

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(
        CommandError, match=r"^nginx is missing; install it first: sudo apt-get install nginx \(or .*\)$"
    ):
        nginx.find_nginx()


def test_sbin_folders_are_searched() -> None:
    """The folders of system programs are searched for Nginx, since PATH of a user may lack them."""
    assert nginx._PATH.split(os.pathsep)[-2:] == ["/usr/sbin", "/usr/local/sbin"]
