"""The system's Nginx: found or installed, and its configuration written for one stack."""

from __future__ import annotations

import math
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.backends.local.file_limits import allow_files
from deploy.backends.local.slots import SLOTS
from deploy.errors import CommandError
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.cgroup import available_cpus

# Where Nginx tells of itself, relative to ``var``.
STATUS_SOCKET = "run/nginx.sock"
Version = tuple[int, int, int]
OLDEST: Version = (1, 22, 0)
# Since when HTTP/2 is a directive, and certificates in variables are kept in memory.
_HTTP2_ON, _CACHED = (1, 25, 1), (1, 27, 4)
_CACHE = "ssl_certificate_cache max=8 valid=1s inactive=1d;"
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


def version_of(binary: str) -> Version:
    """Of an Nginx; of one that does not tell it, the oldest that is known to do."""
    ran = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"/(\d+)\.(\d+)\.(\d+)", ran.stderr)
    return (int(found[1]), int(found[2]), int(found[3])) if found else OLDEST


def write_config(layout: Layout, stack: Stack, version: Version = OLDEST) -> str:
    """Fill in the templates of ``nginx/`` for this stack; the text, so that a change can be told.

    The folder ``var/nginx`` gets the files that an Nginx of this version reads.
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
        # Locust comes from this machine, and needs no listener of its own.
        "LOCUST_LISTEN": "",
        **_tls(layout, stack, version),
        **_limits(stack),
        "STATUS_LISTEN": f"unix:{STATUS_SOCKET}",
        "TRIES": 2 * SLOTS,
    }
    folder = layout.var / "nginx"
    folder.mkdir(exist_ok=True)
    written = [_fill(ROOT / "nginx" / name, folder / name, values) for name in _used(stack)]
    written.append(_fill(ROOT / "nginx/upstream-local.conf", folder / "upstream.conf", {}))
    return "".join(written)


def _used(stack: Stack) -> list[str]:
    """The templates that this stack's configuration is made of."""
    limits = {"limit-requests.conf": stack.client_requests, "limit-connections.conf": stack.client_connections}
    door = "door-tls.conf" if stack.has_tls else "door-plain.conf"
    return ["nginx.conf", door, "service.conf", "problems.conf", *(name for name, most in limits.items() if most)]


def _fill(template: Path, path: Path, values: Mapping[str, object]) -> str:
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", str(value))
    path.write_text(text)
    return text


def _tls(layout: Layout, stack: Stack, version: Version) -> dict[str, object]:
    """Which listener there is, in the words of this Nginx."""
    if not stack.has_tls:
        return {"DOOR": "door-plain.conf"}
    own = version >= _HTTP2_ON
    port = stack.https_port or 443
    return {
        "DOOR": "door-tls.conf",
        "HTTPS_LISTEN": listen_address(stack.http_host, port),
        "HTTPS_SUFFIX": "" if port == 443 else f":{port}",
        "HTTP2_LISTEN": "" if own else " http2",
        "HTTP2": "http2 on;" if own else "",
        # What every OpenSSL knows; a name that it does not would keep Nginx from its start.
        "TLS_GROUPS": "X25519:prime256v1:secp384r1",
        "TLS_CERT": layout.tls_cert,
        "TLS_KEY": layout.tls_key,
        "CERTIFICATE_CACHE": _CACHE if version >= _CACHED else "",
    }


def _limits(stack: Stack) -> dict[str, object]:
    """What one client may have."""
    return {
        "CLIENT_REQUESTS": stack.client_requests,
        "CLIENT_CONNECTIONS": stack.client_connections,
        "LIMIT_REQUESTS": "limit-requests.conf" if stack.client_requests else "/dev/null",
        "LIMIT_CONNECTIONS": "limit-connections.conf" if stack.client_connections else "/dev/null",
        # Whoever comes from the one address that Nginx listens on is on this machine, too.
        "UNLIMITED": rf"^(127\.|::1 |unix:|{re.escape(stack.http_host)} )",
    }


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
