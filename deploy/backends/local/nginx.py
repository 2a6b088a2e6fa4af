"""The system's Nginx: finding or installing it, and writing its configuration for a stack."""

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

from deploy.backends.local.file_limits import raise_file_limit
from deploy.backends.local.slots import SLOTS
from deploy.errors import CommandError
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.cgroup import available_cpus

# The socket on which Nginx serves its status, relative to ``var``.
STATUS_SOCKET = "run/nginx.sock"
Version = tuple[int, int, int]
OLDEST_VERSION: Version = (1, 22, 0)
# The first versions with the directive http2, and with a cache for certificates whose path has a variable.
_HTTP2_DIRECTIVE_VERSION, _CERTIFICATE_CACHE_VERSION = (1, 25, 1), (1, 27, 4)
_CERTIFICATE_CACHE = "ssl_certificate_cache max=8 valid=1s inactive=1d;"
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def find_nginx() -> str:
    """Return the path of the system's nginx; install it if it is missing and this is root on Debian.

    Raises:
        CommandError: nginx is missing; the message names a command that installs it.
    """
    if binary := shutil.which("nginx", path=_PATH):
        return binary
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CommandError("nginx is missing; install it first: sudo apt-get install nginx (or dnf, apk, pacman, ..)")
    print("nginx is missing: installing it with apt-get")
    _install()
    binary = shutil.which("nginx", path=_PATH)
    if binary is None:
        raise CommandError(
            "nginx is missing, and apt-get could not install it; try: apt-get update && apt-get install nginx"
        )
    return binary


def _install() -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _without_service_start():
        for command in (
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "nginx"],
        ):
            subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


@contextmanager
def _without_service_start() -> Iterator[None]:
    """Keep Debian from starting the package's service, which would bind port 80 (policy-rc.d of invoke-rc.d)."""
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
    """Return the version of an Nginx, or the oldest supported version if it does not print one."""
    completed = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False)
    match = re.search(r"/(\d+)\.(\d+)\.(\d+)", completed.stderr)
    return (int(match[1]), int(match[2]), int(match[3])) if match else OLDEST_VERSION


def write_config(layout: Layout, stack: Stack, version: Version = OLDEST_VERSION) -> str:
    """Write the configuration of a stack for this version of Nginx into ``var/nginx``; return its complete text.

    The text lets a caller detect a change.
    """
    files = raise_file_limit()
    values = {
        # The default user of Nginx, nobody, could not open the sockets in a private folder.
        "USER_DIRECTIVE": f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
        "NOFILE": files,
        "WORKER_CONNECTIONS": worker_connections(files),
        "WORKER_PROCESSES": math.ceil(available_cpus() / 4),
        "ERROR_LOG": "log/nginx.log",
        "ACCESS_LOG": "log/access.log",
        "MAX_BODY_BYTES": stack.settings(layout).max_body_bytes,
        "HTTP_LISTEN": listen_address(stack.http_host, stack.http_port or 80),
        # Locust runs on this machine and can use the public listener.
        "LOCUST_LISTEN": "",
        **_tls(layout, stack, version),
        **_limits(stack),
        "STATUS_LISTEN": f"unix:{STATUS_SOCKET}",
        "TRIES": 2 * SLOTS,
    }
    folder = layout.var / "nginx"
    folder.mkdir(exist_ok=True)
    texts = [_fill_template(ROOT / "nginx" / name, folder / name, values) for name in _template_names(stack)]
    texts.append(_fill_template(ROOT / "nginx/upstream-local.conf", folder / "upstream.conf", {}))
    return "".join(texts)


def _template_names(stack: Stack) -> list[str]:
    limits = {"limit-requests.conf": stack.client_requests, "limit-connections.conf": stack.client_connections}
    door = "door-tls.conf" if stack.has_tls else "door-plain.conf"
    return ["nginx.conf", door, "service.conf", "problems.conf", *(name for name, limit in limits.items() if limit)]


def _fill_template(template: Path, path: Path, values: Mapping[str, object]) -> str:
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", str(value))
    path.write_text(text)
    return text


def _tls(layout: Layout, stack: Stack, version: Version) -> dict[str, object]:
    """Return the variables of the listener, with the directives that this version of Nginx knows."""
    if not stack.has_tls:
        return {"DOOR": "door-plain.conf"}
    has_http2_directive = version >= _HTTP2_DIRECTIVE_VERSION
    port = stack.https_port or 443
    return {
        "DOOR": "door-tls.conf",
        "HTTPS_LISTEN": listen_address(stack.http_host, port),
        "HTTPS_SUFFIX": "" if port == 443 else f":{port}",
        "HTTP2_LISTEN": "" if has_http2_directive else " http2",
        "HTTP2": "http2 on;" if has_http2_directive else "",
        # Only groups that every OpenSSL knows: Nginx does not start with an unknown one.
        "TLS_GROUPS": "X25519:prime256v1:secp384r1",
        "TLS_CERT": layout.tls_cert,
        "TLS_KEY": layout.tls_key,
        "CERTIFICATE_CACHE": _CERTIFICATE_CACHE if version >= _CERTIFICATE_CACHE_VERSION else "",
    }


def _limits(stack: Stack) -> dict[str, object]:
    """Return the variables of the limits per client address."""
    return {
        "CLIENT_REQUESTS": stack.client_requests,
        "CLIENT_CONNECTIONS": stack.client_connections,
        "LIMIT_REQUESTS": "limit-requests.conf" if stack.client_requests else "/dev/null",
        "LIMIT_CONNECTIONS": "limit-connections.conf" if stack.client_connections else "/dev/null",
        # A client with the address that Nginx listens on is on this machine.
        "UNLIMITED": rf"^(127\.|::1 |unix:|{re.escape(stack.http_host)} )",
    }


def worker_connections(files: int) -> int:
    """Return the connections that one Nginx worker with this limit of open files may hold, as in nginx-limits.envsh."""
    return min(32768, files - files // 16)


def listen_address(host: str, port: int) -> str:
    """Return an address and port as a listen directive has them, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_config(nginx: str, layout: Layout) -> None:
    """Make Nginx test the configuration.

    Raises:
        CommandError: Nginx refuses the configuration, with its reason.
    """
    with tempfile.TemporaryFile("w+") as log:
        completed = subprocess.run([*command(nginx, layout), "-t"], stderr=log, check=False, cwd=layout.var)
        if completed.returncode:
            log.seek(0)
            lines = [line for line in log.read().splitlines() if "[emerg]" in line]
            raise CommandError(f"nginx refuses its configuration: {lines[0] if lines else 'see nginx -t'}")


def command(nginx: str, layout: Layout) -> list[str]:
    """Return the command line that starts Nginx for a stack."""
    return [nginx, "-p", f"{layout.var}/", "-c", f"{layout.var}/nginx/nginx.conf", "-e", "stderr"]
