"""The programs that supervisord runs for a stack: replicas, Nginx, Locust, log rotation, and MLflow if it has one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from deploy.backends.local import nginx, registry
from deploy.backends.local.slots import replica_name, replica_socket
from deploy.backends.local.supervisord import NGINX_LAUNCHER, Program
from deploy.stack.code import code_digest
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.platform import usable_cpus

# The variable in a replica's program file that holds the digest of its code.
CODE_DIGEST = "CODE_DIGEST"
# The arguments of rotate.sh: seconds between checks of the access log, and its maximum size in bytes.
_ROTATION_ARGUMENTS = ("60", "100000000")
# The ports on which Locust's master listens for its workers: below the ephemeral ports of Linux.
_LOCUST_MASTER_PORTS = range(20000, 32000)


def programs(stack: Stack, layout: Layout, binary: str) -> Sequence[Program]:
    """Return the programs of a stack; ``binary`` is the path of Nginx.

    Raises:
        CommandError: Nginx refuses its configuration.
    """
    config = nginx.write_config(layout, stack, nginx.version_of(binary))
    nginx.check_config(binary, layout)
    balancer = [sys.executable, "-m", NGINX_LAUNCHER, *nginx.command(binary, layout)]
    balancer = [*_taskset_prefix(stack.environment.get("SERVICE_CPUSET")), *balancer]
    rotation = ["/bin/sh", str(ROOT / "deploy/backends/local/rotate.sh"), *_ROTATION_ARGUMENTS]
    # A digest in a program's environment makes supervisord restart it when its configuration or code changes.
    code = code_digest()
    digest = {"CONFIG_DIGEST": sha256(config.encode()).hexdigest(), "PYTHONPATH": str(ROOT)}
    return [
        *registry.programs(stack, layout),
        *(_replica_program(stack, layout, slot, code) for slot in range(1, stack.replicas + 1)),
        Program("nginx", balancer, digest, stop_seconds=10),
        Program("locust", _locust_command(stack), _locust_environment(stack, layout), stop_seconds=10),
        Program("log-rotation", rotation, {}, stop_seconds=5),
    ]


def _replica_program(stack: Stack, layout: Layout, slot: int, code: str) -> Program:
    gunicorn = [_program_path("gunicorn"), "-c", str(ROOT / "gunicorn.conf.py")]
    slot_cpus = _cpu_list(slot, int(stack.cpus)) if stack.cpus else None
    gunicorn = [*_taskset_prefix(stack.environment.get("SERVICE_CPUSET") or slot_cpus), *gunicorn]
    # A change of Locust's own variable must not restart replicas.
    environment = {name: value for name, value in stack.environment.items() if name != "LOCUST_WORKERS"} | {
        "VAR_DIR": str(layout.var),
        "SOCKET": replica_socket(slot),
        "REPLICA": replica_name(slot),
        CODE_DIGEST: code,
    }
    graceful = stack.settings(layout).graceful_timeout
    return Program(replica_name(slot), gunicorn, environment, stop_seconds=graceful + 5)


def _locust_environment(stack: Stack, layout: Layout) -> dict[str, str]:
    """Return the variables for TLS and the API key; the key is in a file, since arguments of `env` are public."""
    environment = {"TLS_CERT": str(layout.tls_cert)} if stack.has_tls else {}
    return environment | ({"API_KEY_FILE": str(layout.client_key)} if stack.api_keys_file else {})


def _locust_command(stack: Stack) -> list[str]:
    file = str(ROOT / "locust/locustfile.py")
    port = str(stack.locust_port)
    command = [_program_path("locust"), "-f", file, "--host", stack.address]
    command += ["--web-host", "127.0.0.1", "--web-port", port]
    if stack.locust_workers == 1:
        return command
    # Locust's default port for workers would be the same for every stack on this machine.
    master_port = str(_LOCUST_MASTER_PORTS[stack.locust_port % len(_LOCUST_MASTER_PORTS)])
    ports = ["--master-bind-host", "127.0.0.1", "--master-bind-port", master_port, "--master-port", master_port]
    return [*command, "--processes", str(stack.locust_workers), *ports]


def _program_path(name: str) -> str:
    """Return the path of a program of this Python environment."""
    return str(Path(sys.executable).parent / name)


def _taskset_prefix(cpus: str | None) -> list[str]:
    """Return the start of a command line that runs only on these CPUs; empty if there are none."""
    return ["taskset", "-c", cpus] if cpus else []


def _cpu_list(slot: int, cpus: int) -> str:
    """Return the CPUs of a slot as a list for taskset; slots share CPUs only when there are not enough."""
    usable = usable_cpus()
    chosen = (usable[((slot - 1) * cpus + i) % len(usable)] for i in range(cpus))
    return ",".join(str(cpu) for cpu in sorted(set(chosen)))
