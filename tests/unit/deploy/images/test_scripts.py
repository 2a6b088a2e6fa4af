"""The small programs inside the images, run as the images run them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.stack.paths import ROOT
from tests.support.ports import refusing_port
from tests.support.servers import serving_thread

IMAGES = ROOT / "deploy/images"
Ran = subprocess.CompletedProcess[str]


class Service(BaseHTTPRequestHandler):
    """Answers a path that is a status with that status, and keeps what it was asked."""

    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.asked.append(f"{self.requestline} | {self.headers['Host']} | {self.headers['Connection']}")
        body = ("é" * 100_000 if self.path == "/200/long" else f"this is {self.path}").encode()
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (http.server's)
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """A service on 127.0.0.1."""
    Service.asked = []
    with serving_thread(HTTPServer(("127.0.0.1", 0), Service)) as server:
        yield server.server_port


def ask(port: int, path: str) -> Ran:
    """As the health check does: isolated, and without what a site adds."""
    command = [sys.executable, "-IS", str(IMAGES / "ask.py"), str(port), path]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, timeout=60, env={"LANG": "C.UTF-8"}
    )


def test_successful_response_is_printed_with_status_0(port: int) -> None:
    """An answer of 200 is printed, and the status is 0; the service is asked once, and to hang up."""
    ran = ask(port, "/200")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "this is /200\n", "")
    assert Service.asked == ["GET /200 HTTP/1.1 | localhost | close"]


def test_long_response_is_printed_completely(port: int) -> None:
    """All of a long answer is printed."""
    ran = ask(port, "/200/long")
    assert (ran.returncode, ran.stdout) == (0, "é" * 100_000 + "\n")


@pytest.mark.parametrize("status", [404, 500, 503])
def test_error_response_is_printed_with_status_1(port: int, status: int) -> None:
    """Any other answer is printed, too, and the status is 1."""
    ran = ask(port, f"/{status}/200")
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, f"this is /{status}/200\n", "")


def test_refused_connection_is_one_line_with_status_1() -> None:
    """Where nobody listens the status is 1, and why is one line."""
    with refusing_port() as port:
        ran = ask(port, "/")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("no answer: ")
    assert ran.stderr.count("\n") == 1


@contextmanager
def raw(answer: bytes) -> Iterator[int]:
    """A service that sends these bytes and hangs up."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("answer", [b"", b"220 a mail server\r\n", b"\r\n\r\n", b"\xff\xfe\r\n\r\n\xff"])
def test_invalid_http_response_is_unhealthy(answer: bytes) -> None:
    """A service that hangs up, or speaks something else, is not well."""
    with raw(answer) as port:
        ran = ask(port, "/")
    assert (ran.returncode, ran.stderr) == (1, "")


def script(name: str, *arguments: str, programs: Path, before: str = "", **variables: str) -> Ran:
    """Run a shell script of the images with these programs in place of the system's."""
    command = ["/bin/sh", "-c", f'{before}\n. "$0"\necho "$NOFILE $WORKER_CONNECTIONS"', str(IMAGES / name)]
    if name.endswith(".sh"):
        command = ["/bin/sh", str(IMAGES / name), *arguments]
    environ = {"PATH": str(programs), **variables}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Stand-ins that write down how they were called, one file each."""
    for name in ("uv", "find", "mkdir"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\n')
        program.chmod(0o755)
    (tmp_path / "nproc").write_text("#!/bin/sh\necho 5\n")
    (tmp_path / "nproc").chmod(0o755)
    return tmp_path


def calls(programs: Path, name: str) -> list[str]:
    path = programs / f"{name}.calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", "x86_64"), ("arm64", "aarch64")])
def test_packages_of_an_architecture(programs: Path, architecture: str, machine: str) -> None:
    """A lock file's packages are installed for the platform that Docker's name means, as wheels alone."""
    ran = script("install.sh", architecture, "/locks/server.txt", "/locks/onnx.txt", programs=programs)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    (called,) = calls(programs, "uv")
    assert called.startswith("pip install ")
    for part in (
        f"--python-platform {machine}-manylinux",
        "--only-binary :all:",
        "--target /packages",
        "--requirement /locks/server.txt --requirement /locks/onnx.txt",
    ):
        assert part in called
    assert calls(programs, "find")[0].startswith("/packages -type d ")


@pytest.mark.parametrize(
    ("extras", "added"),
    [
        ("", ""),
        ("parquet", " --requirement /locks/parquet.txt"),
        ("onnx parquet", " --requirement /locks/onnx.txt --requirement /locks/parquet.txt"),
    ],
)
def test_each_extra_adds_a_lock_file(programs: Path, extras: str, added: str) -> None:
    """Each name in EXTRAS adds a lock file beside the first."""
    assert script("install.sh", "amd64", "/locks/server.txt", programs=programs, EXTRAS=extras).returncode == 0
    (called,) = calls(programs, "uv")
    assert called.endswith(f"--target /packages --requirement /locks/server.txt{added}")


@pytest.mark.parametrize("architecture", ["riscv64", "arm", "AMD64", ""])
def test_unknown_architecture_is_refused_before_installing(programs: Path, architecture: str) -> None:
    """An architecture that nobody has wheels for is refused in one line, before anything is installed."""
    ran = script("install.sh", architecture, "/locks/server.txt", "/locks/onnx.txt", programs=programs)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"architecture {architecture}: expected amd64 or arm64\n"
    assert calls(programs, "uv") == calls(programs, "find") == []


def test_failed_installation_fails_the_script(programs: Path) -> None:
    """An installation that fails fails the script."""
    (programs / "uv").write_text("#!/bin/sh\nexit 2\n")
    assert script("install.sh", "amd64", "/locks/server.txt", programs=programs).returncode == 2
    assert calls(programs, "find") == []


@pytest.mark.parametrize(
    ("limit", "files", "connections"),
    [
        ("1024", 1024, 960),
        ("1023", 1023, 960),
        ("20000", 20000, 18750),
        ("65536", 65536, 32768),
        ("65537", 65536, 32768),
        ("1073741816", 65536, 32768),
        ("unlimited", 65536, 32768),
    ],
)
def test_nginx_limits_follow_the_open_file_limit(programs: Path, limit: str, files: int, connections: int) -> None:
    """Nginx opens as many files as the engine lets it, to 65536, and takes nearly as many connections, to 32768."""
    before = f"ulimit() {{ [ $1 = -Hn ] && echo {limit}; }}"
    ran = script("nginx-limits.envsh", programs=programs, before=before)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{files} {connections}\n", "")
    assert calls(programs, "mkdir") == ["-p /tmp/run /tmp/tmp"]


def test_limits_of_this_process(programs: Path) -> None:
    """The limit is the process's hard one, and both figures reach the programs that come after."""
    ran = script("nginx-limits.envsh", programs=programs, before="ulimit -n 600; PATH=$PATH:/usr/bin:/bin")
    assert ran.stdout == "600 563\n"
    (programs / "mkdir").write_text("#!/bin/sh\n")
    check = f"ulimit -n 600; . {IMAGES}/nginx-limits.envsh; exec /usr/bin/env"
    shown = subprocess.run(
        ["/bin/sh", "-c", check], env={"PATH": str(programs)}, capture_output=True, text=True, check=True
    )
    assert {"NOFILE=600", "WORKER_CONNECTIONS=563", "WORKER_PROCESSES=2"} < set(shown.stdout.splitlines())


def test_configured_nginx_processes_are_kept(programs: Path) -> None:
    """A number of processes that is given stays, since a limit of CPU time is not seen from inside."""
    (programs / "mkdir").write_text("#!/bin/sh\n")
    check = f"ulimit -n 600; . {IMAGES}/nginx-limits.envsh; exec /usr/bin/env"
    environ = {"PATH": str(programs), "WORKER_PROCESSES": "1"}
    shown = subprocess.run(["/bin/sh", "-c", check], env=environ, capture_output=True, text=True, check=True)
    assert "WORKER_PROCESSES=1" in shown.stdout.splitlines()


@pytest.mark.parametrize(
    ("told", "resolver"),
    [
        ({}, "10.96.0.10 [fd00::a]"),
        ({"RESOLVER": ""}, "10.96.0.10 [fd00::a]"),
        ({"RESOLVER": "auto"}, "10.96.0.10 [fd00::a]"),
        ({"RESOLVER": "127.0.0.11"}, "127.0.0.11"),
    ],
)
def test_nginx_resolver_defaults_to_container_name_servers(tmp_path: Path, told: dict[str, str], resolver: str) -> None:
    """Nginx asks the container's own name servers for addresses, unless another one is named."""
    (tmp_path / "resolv.conf").write_text(
        "# nameserver 192.0.2.1\nsearch svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"
    )
    check = f'. {IMAGES}/nginx-resolver.envsh; echo "$RESOLVER"'
    environ = {"PATH": "/usr/bin:/bin", "RESOLV_CONF": str(tmp_path / "resolv.conf"), **told}
    shown = subprocess.run(["/bin/sh", "-c", check], env=environ, capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == (f"{resolver}\n", "")
