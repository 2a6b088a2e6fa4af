"""The system's Nginx: found or installed, and its configuration written for one stack."""

from __future__ import annotations

import math
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.errors import CommandError
from deploy.layout import ROOT, Layout
from deploy.local.files import allow_files
from deploy.local.slots import SLOTS
from deploy.stack import Stack
from server.cgroup import available_cpus

# Where Nginx tells of itself, relative to ``var``.
STATUS_SOCKET = "run/nginx.sock"
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def find_nginx() -> str:
    """The path of the system's nginx; installed first where it is missing and that is allowed.

    Raises:
        CommandError: it is missing, naming the command that installs it.
    """
    if found := shutil.which("nginx", path=_PATH):
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CommandError("nginx is missing; install it first: sudo apt-get install nginx (or dnf, apk, pacman, ..)")
    print("nginx is missing: installing it with apt-get")
    _install()
    found = shutil.which("nginx", path=_PATH)
    if found is None:
        raise CommandError(
            "nginx is missing, and apt-get could not install it; try: apt-get update && apt-get install nginx"
        )
    return found


def _install() -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_service():
        for command in (
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "nginx"],
        ):
            subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


@contextmanager
def _no_service() -> Iterator[None]:
    """Keep Debian from starting the package's own service, which would take port 80 (invoke-rc.d's policy-rc.d)."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def write_config(layout: Layout, stack: Stack) -> str:
    """Fill in ``nginx/nginx.conf`` for this stack; the text, so that a change can be told.

    The folder ``var/nginx`` gets the two files that Nginx reads.
    """
    files = allow_files()
    values = {
        # Nginx's own default, nobody, could not reach the sockets in a private folder.
        "USER_DIRECTIVE": f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
        "NOFILE": files,
        "WORKER_CONNECTIONS": connections(files),
        "WORKER_PROCESSES": math.ceil(available_cpus() / 4),
        "ERROR_LOG": "log/nginx.log",
        "ACCESS_LOG": "log/access.log",
        "MAX_BODY_BYTES": stack.settings(layout).max_body_bytes,
        "HTTP_LISTEN": listen_address(stack.http_host, stack.http_port or 80),
        "STATUS_LISTEN": f"unix:{STATUS_SOCKET}",
        "TRIES": 2 * SLOTS,
    }
    text = (ROOT / "nginx/nginx.conf").read_text()
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", str(value))
    folder = layout.var / "nginx"
    folder.mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(text)
    upstream = (ROOT / "nginx/upstream-local.conf").read_text()
    (folder / "upstream.conf").write_text(upstream)
    return text + upstream


def connections(files: int) -> int:
    """How many connections a process of Nginx with so many files may hold, as nginx-limits.envsh has it too."""
    return min(32768, files - files // 16)


def listen_address(host: str, port: int) -> str:
    """As Nginx writes it: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_config(nginx: str, layout: Layout) -> None:
    """Let Nginx itself read the configuration.

    Raises:
        CommandError: with Nginx's reason.
    """
    with tempfile.TemporaryFile("w+") as log:
        tested = subprocess.run([*command(nginx, layout), "-t"], stderr=log, check=False, cwd=layout.var)
        if tested.returncode:
            log.seek(0)
            lines = [line for line in log.read().splitlines() if "[emerg]" in line]
            raise CommandError(f"nginx refuses its configuration: {lines[0] if lines else 'see nginx -t'}")


def command(nginx: str, layout: Layout) -> list[str]:
    """How Nginx is started for this stack."""
    return [nginx, "-p", f"{layout.var}/", "-c", f"{layout.var}/nginx/nginx.conf", "-e", "stderr"]
