"""What supervisord is to run for a stack: replicas, Nginx, Locust, the rotation of logs, and MLflow if asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from deploy.backends.local import nginx, registry
from deploy.backends.local.slots import replica_name, replica_socket
from deploy.backends.local.supervisord import LAUNCHER, Program
from deploy.stack.code import code_digest
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.platform import usable_cpus

# The variable by which a replica's program file names the code that it runs.
CODE_DIGEST = "CODE_DIGEST"
# How often the access log is looked at (seconds), and how large it may grow (bytes).
_ROTATION = ("60", "100000000")
# Where Locust's master listens for its workers: below the ports that systems give to clients.
_INNER_PORTS = range(20000, 32000)


def programs(stack: Stack, layout: Layout, binary: str) -> Sequence[Program]:
    """Everything that supervisord is to run. ``binary`` is Nginx.

    Raises:
        CommandError: Nginx does not take its configuration.
    """
    config = nginx.write_config(layout, stack, nginx.version_of(binary))
    nginx.check_config(binary, layout)
    balancer = [sys.executable, "-m", LAUNCHER, *nginx.command(binary, layout)]
    balancer = [*_pinned(stack.environment.get("SERVICE_CPUSET")), *balancer]
    # A changed configuration makes a changed program, which supervisord then starts anew; so does changed code.
    code = code_digest()
    digest = {"CONFIG_DIGEST": sha256(config.encode()).hexdigest(), "PYTHONPATH": str(ROOT)}
    return [
        *registry.programs(stack, layout),
        *(_replica(stack, layout, slot, code) for slot in range(1, stack.replicas + 1)),
        Program("nginx", balancer, digest, stop_seconds=10),
        Program("locust", _locust(stack), _clients(stack, layout), stop_seconds=10),
        Program(
            "log-rotation", ["/bin/sh", str(ROOT / "deploy/backends/local/rotate.sh"), *_ROTATION], {}, stop_seconds=5
        ),
    ]


def _replica(stack: Stack, layout: Layout, slot: int, code: str) -> Program:
    gunicorn = [_tool("gunicorn"), "-c", str(ROOT / "gunicorn.conf.py")]
    own = _cpu_list(slot, int(stack.cpus)) if stack.cpus else None
    gunicorn = [*_pinned(stack.environment.get("SERVICE_CPUSET") or own), *gunicorn]
    # What is Locust's own is no reason to start a replica anew.
    environment = {name: value for name, value in stack.environment.items() if name != "LOCUST_WORKERS"} | {
        "VAR_DIR": str(layout.var),
        "SOCKET": replica_socket(slot),
        "REPLICA": replica_name(slot),
        CODE_DIGEST: code,
    }
    graceful = stack.settings(layout).graceful_timeout
    return Program(replica_name(slot), gunicorn, environment, stop_seconds=graceful + 5)


def _clients(stack: Stack, layout: Layout) -> dict[str, str]:
    """What Locust needs of a service with locks. Its key comes by a file: what `env` is told, everybody may see."""
    environment = {"TLS_CERT": str(layout.tls_cert)} if stack.has_tls else {}
    return environment | ({"API_KEY_FILE": str(layout.client_key)} if stack.api_keys_file else {})


def _locust(stack: Stack) -> list[str]:
    file = str(ROOT / "locust/locustfile.py")
    port = str(stack.locust_port)
    command = [_tool("locust"), "-f", file, "--host", stack.address, "--web-host", "127.0.0.1", "--web-port", port]
    if stack.locust_workers == 1:
        return command
    # Locust's own port for workers is one for the whole machine.
    inner = str(_INNER_PORTS[stack.locust_port % len(_INNER_PORTS)])
    ports = ["--master-bind-host", "127.0.0.1", "--master-bind-port", inner, "--master-port", inner]
    return [*command, "--processes", str(stack.locust_workers), *ports]


def _tool(name: str) -> str:
    """A program of the environment that runs this."""
    return str(Path(sys.executable).parent / name)


def _pinned(cpus: str | None) -> list[str]:
    """What a command is begun with, to run on these CPUs alone."""
    return ["taskset", "-c", cpus] if cpus else []


def _cpu_list(slot: int, cpus: int) -> str:
    """The CPUs of a slot: neighbours share as few as there are."""
    usable = usable_cpus()
    chosen = (usable[((slot - 1) * cpus + i) % len(usable)] for i in range(cpus))
    return ",".join(str(cpu) for cpu in sorted(set(chosen)))
