"""Tests of the scripts that the Dockerfile copies into the images, run as the images run them."""

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
Completed = subprocess.CompletedProcess[str]


class Service(BaseHTTPRequestHandler):
    """An HTTP service that answers with the status that the path starts with, and records its requests."""

    requests: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.requests.append(f"{self.requestline} | {self.headers['Host']} | {self.headers['Connection']}")
        body = ("é" * 100_000 if self.path == "/200/long" else f"this is {self.path}").encode()
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name in http.server)
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a running Service on 127.0.0.1."""
    Service.requests = []
    with serving_thread(HTTPServer(("127.0.0.1", 0), Service)) as server:
        yield server.server_port


def run_health_check(port: int, path: str) -> Completed:
    """Run ask.py with the Python options of the health check."""
    command = [sys.executable, "-IS", str(IMAGES / "ask.py"), str(port), path]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, timeout=60, env={"LANG": "C.UTF-8"}
    )


def test_successful_response_is_printed_with_status_0(port: int) -> None:
    """A response of 200 is printed with status 0, after one request that asks to close the connection."""
    completed = run_health_check(port, "/200")
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "this is /200\n", "")
    assert Service.requests == ["GET /200 HTTP/1.1 | localhost | close"]


def test_long_response_is_printed_completely(port: int) -> None:
    """A response that arrives in many parts is printed completely."""
    completed = run_health_check(port, "/200/long")
    assert (completed.returncode, completed.stdout) == (0, "é" * 100_000 + "\n")


@pytest.mark.parametrize("status", [404, 500, 503])
def test_error_response_is_printed_with_status_1(port: int, status: int) -> None:
    """A response with an error status is printed, and the exit status is 1."""
    completed = run_health_check(port, f"/{status}/200")
    assert (completed.returncode, completed.stdout, completed.stderr) == (1, f"this is /{status}/200\n", "")


def test_refused_connection_is_one_line_with_status_1() -> None:
    """If nothing listens on the port, the exit status is 1, and the reason is one line on stderr."""
    with refusing_port() as port:
        completed = run_health_check(port, "/")
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr.startswith("no answer: ")
    assert completed.stderr.count("\n") == 1


@contextmanager
def raw_service(response: bytes) -> Iterator[int]:
    """Run a service that sends these bytes and closes the connection; yield its port."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(response)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("response", [b"", b"220 a mail server\r\n", b"\r\n\r\n", b"\xff\xfe\r\n\r\n\xff"])
def test_invalid_http_response_is_unhealthy(response: bytes) -> None:
    """A service that closes the connection, or does not speak HTTP, counts as unhealthy."""
    with raw_service(response) as port:
        completed = run_health_check(port, "/")
    assert (completed.returncode, completed.stderr) == (1, "")


def run_script(name: str, *arguments: str, programs: Path, prologue: str = "", **variables: str) -> Completed:
    """Run a script with these programs instead of the system's; source it, after ``prologue``, if it is an envsh."""
    command = ["/bin/sh", "-c", f'{prologue}\n. "$0"\necho "$NOFILE $WORKER_CONNECTIONS"', str(IMAGES / name)]
    if name.endswith(".sh"):
        command = ["/bin/sh", str(IMAGES / name), *arguments]
    environ = {"PATH": str(programs), **variables}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of fake programs that record their arguments, in one file each."""
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
def test_packages_are_installed_for_the_architecture(programs: Path, architecture: str, machine: str) -> None:
    """The packages of lock files are installed as wheels for the platform that Docker's architecture names."""
    completed = run_script("install.sh", architecture, "/locks/server.txt", "/locks/onnx.txt", programs=programs)
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")
    (call,) = calls(programs, "uv")
    assert call.startswith("pip install ")
    for part in (
        f"--python-platform {machine}-manylinux",
        "--only-binary :all:",
        "--target /packages",
        "--requirement /locks/server.txt --requirement /locks/onnx.txt",
    ):
        assert part in call
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
    """Each name in EXTRAS adds a lock file from the folder of the first one."""
    assert run_script("install.sh", "amd64", "/locks/server.txt", programs=programs, EXTRAS=extras).returncode == 0
    (call,) = calls(programs, "uv")
    assert call.endswith(f"--target /packages --requirement /locks/server.txt{added}")


@pytest.mark.parametrize("architecture", ["riscv64", "arm", "AMD64", ""])
def test_unknown_architecture_is_refused_before_installing(programs: Path, architecture: str) -> None:
    """An unsupported architecture is refused in one line, before anything is installed."""
    completed = run_script("install.sh", architecture, "/locks/server.txt", "/locks/onnx.txt", programs=programs)
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr == f"architecture {architecture}: expected amd64 or arm64\n"
    assert calls(programs, "uv") == calls(programs, "find") == []


def test_failed_installation_fails_the_script(programs: Path) -> None:
    """If the installation fails, the script exits with the same status."""
    (programs / "uv").write_text("#!/bin/sh\nexit 2\n")
    assert run_script("install.sh", "amd64", "/locks/server.txt", programs=programs).returncode == 2
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
    """Nginx may open as many files as the container, at most 65536, and 15/16 as many connections, at most 32768."""
    prologue = f"ulimit() {{ [ $1 = -Hn ] && echo {limit}; }}"
    completed = run_script("nginx-limits.envsh", programs=programs, prologue=prologue)
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, f"{files} {connections}\n", "")
    assert calls(programs, "mkdir") == ["-p /tmp/run /tmp/tmp"]


def test_limits_are_exported_from_the_hard_limit(programs: Path) -> None:
    """The limits follow the hard limit of the process, and are exported to the programs that it starts."""
    completed = run_script("nginx-limits.envsh", programs=programs, prologue="ulimit -n 600; PATH=$PATH:/usr/bin:/bin")
    assert completed.stdout == "600 563\n"
    (programs / "mkdir").write_text("#!/bin/sh\n")
    shell_script = f"ulimit -n 600; . {IMAGES}/nginx-limits.envsh; exec /usr/bin/env"
    completed = subprocess.run(
        ["/bin/sh", "-c", shell_script], env={"PATH": str(programs)}, capture_output=True, text=True, check=True
    )
    assert {"NOFILE=600", "WORKER_CONNECTIONS=563", "WORKER_PROCESSES=2"} < set(completed.stdout.splitlines())


def test_configured_nginx_processes_are_kept(programs: Path) -> None:
    """A WORKER_PROCESSES that the user set is kept, because the script cannot see a limit on CPU time."""
    (programs / "mkdir").write_text("#!/bin/sh\n")
    shell_script = f"ulimit -n 600; . {IMAGES}/nginx-limits.envsh; exec /usr/bin/env"
    environ = {"PATH": str(programs), "WORKER_PROCESSES": "1"}
    completed = subprocess.run(["/bin/sh", "-c", shell_script], env=environ, capture_output=True, text=True, check=True)
    assert "WORKER_PROCESSES=1" in completed.stdout.splitlines()


@pytest.mark.parametrize(
    ("variables", "resolver"),
    [
        ({}, "10.96.0.10 [fd00::a]"),
        ({"RESOLVER": ""}, "10.96.0.10 [fd00::a]"),
        ({"RESOLVER": "auto"}, "10.96.0.10 [fd00::a]"),
        ({"RESOLVER": "127.0.0.11"}, "127.0.0.11"),
    ],
)
def test_nginx_resolver_defaults_to_container_name_servers(
    tmp_path: Path, variables: dict[str, str], resolver: str
) -> None:
    """Nginx resolves names with the container's own name servers, unless RESOLVER names others."""
    (tmp_path / "resolv.conf").write_text(
        "# nameserver 192.0.2.1\nsearch svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"
    )
    shell_script = f'. {IMAGES}/nginx-resolver.envsh; echo "$RESOLVER"'
    environ = {"PATH": "/usr/bin:/bin", "RESOLV_CONF": str(tmp_path / "resolv.conf"), **variables}
    completed = subprocess.run(["/bin/sh", "-c", shell_script], env=environ, capture_output=True, text=True, check=True)
    assert (completed.stdout, completed.stderr) == (f"{resolver}\n", "")
