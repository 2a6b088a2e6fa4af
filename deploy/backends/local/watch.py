"""The output of `make status`, `make stats` and `make logs` for a local stack."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.backends.local.slots import replica_name, replica_socket
from deploy.backends.local.supervisord import Supervisord
from deploy.errors import CommandError
from deploy.rollout.health import health_notes, mixed_models_note
from deploy.rollout.replica_client import get_json_over_socket
from deploy.security.exposure import description
from deploy.stack.paths import Layout
from deploy.stack.registry_services import MLFLOW, mlflow_address
from deploy.stack.specification import Stack
from deploy.stack.text_table import table

_BYTES_PER_MB = 1_000_000
_LOG_PATTERNS = {
    "server": "replica-*.log",
    "nginx": "nginx.log access.log",
    "locust": "locust.log",
    MLFLOW: "mlflow.log",
    "all": "*.log",
}


def status(stack: Stack, supervisord: Supervisord, layout: Layout) -> list[str]:
    """Return a table of the programs, the addresses of the stack, and notes on problems."""
    info = supervisord.info()
    rows = [("NAME", "STATE", "PID", "UPTIME", "READY", "MODEL", "ENGINE", "WORKERS")]
    lines = []
    healths = []
    for slot in range(1, stack.replicas + 1):
        name = replica_name(slot)
        ready = get_json_over_socket(replica_socket(slot), "/ready")[0] == 200
        health = get_json_over_socket(replica_socket(slot), "/health")[1] or {}
        healths.append(health)
        process = _process_columns(name, info.get(name, {}), ready=ready)
        rows.append((*process, "yes" if ready else "no", *_model_columns(health)))
        lines.extend(health_notes(name, health))
    lines.extend(mixed_models_note(healths))
    programs = ("nginx", "locust", *([MLFLOW] if stack.full else []))
    rows.extend((*_process_columns(name, info.get(name, {})), "", "", "", "") for name in programs)
    mlflow = f"   MLflow {mlflow_address(stack)}" if stack.full else ""
    addresses = f"service {stack.address}   Locust http://127.0.0.1:{stack.locust_port}{mlflow}"
    return [*table(rows), "", addresses, description(stack, layout), *lines]


def _process_columns(name: str, process: dict[str, object], *, ready: bool = True) -> tuple[str, str, str, str]:
    state, pid = str(process.get("statename", "MISSING")), process.get("pid")
    if state in ("RUNNING", "STARTING"):
        # supervisord reports a program as starting in its first seconds even if it is ready.
        state = "running" if ready else "starting"
        return name, state, str(pid), f"{int(process['now']) - int(process['start'])} s"  # type: ignore[call-overload]
    return name, state.lower(), "", ""


def _model_columns(health: dict[str, object]) -> tuple[str, str, str]:
    model = health.get("model")
    if not isinstance(model, dict):
        return "", "", ""
    return f"{model['name']} {model['version']}", str(model["engine"]), str(health["workers"])


@dataclass(frozen=True, slots=True)
class ProgramUsage:
    """The resources that a program's processes use. Memory is in bytes; ``pss`` divides shared pages by their users."""

    name: str
    cpu_percent: float
    pss: int
    private: int
    largest_worker: int
    processes: int


def stats(stack: Stack, supervisord: Supervisord, seconds: float = 1.0) -> list[str]:
    """Return a table like that of `docker stats`: CPU over ``seconds``, and memory with shared pages counted once."""
    rows = [("NAME", "CPU %", "MEMORY", "SHARED", "PRIVATE", "LARGEST WORKER'S OWN", "PROCESSES")]
    usages = list(usage(supervisord, seconds))
    for program in usages:
        shared = program.pss - program.private
        largest_worker = _mb(program.largest_worker) if program.largest_worker else ""
        rows.append((program.name, f"{program.cpu_percent:.1f}", _mb(program.pss), _mb(shared), _mb(program.private),
                     largest_worker, str(program.processes)))  # fmt: skip
    total = sum(program.pss for program in usages)
    note = "MEMORY is proportional: a page shared by n processes counts 1/n in each, so that the rows add up."
    return [*table(rows), "", f"total {_mb(total)}, {stack.replicas} replica(s). {note}"]


def usage(supervisord: Supervisord, seconds: float) -> Iterator[ProgramUsage]:
    """Yield the usage of each program with its child processes, ordered by name."""
    trees = {name: process_tree(int(process["pid"])) for name, process in supervisord.info().items() if process["pid"]}
    start_cpu_seconds = {name: _cpu_seconds(tree) for name, tree in trees.items()}
    started = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - started
    for name, tree in sorted(trees.items()):
        memory = [_memory(process) for process in tree]
        yield ProgramUsage(
            name=name,
            cpu_percent=100 * max(0.0, _cpu_seconds(tree) - start_cpu_seconds[name]) / elapsed,
            pss=sum(pss for pss, _ in memory),
            private=sum(private for _, private in memory),
            largest_worker=max((private for _, private in memory[1:]), default=0),
            processes=len(tree),
        )


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process followed by all its descendants; empty if it ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_seconds(tree: Sequence[psutil.Process]) -> float:
    total: defaultdict[str, float] = defaultdict(float)
    for process in tree:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total["cpu"] += times.user + times.system
    return total["cpu"]


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Return the proportional and the private memory of a process in bytes; zeros if it ended."""
    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return 0, 0
    return memory.pss, memory.uss


def _mb(size: int) -> str:
    return f"{size / _BYTES_PER_MB:.1f} MB"


def follow_logs(layout: Layout, service: str) -> None:
    """Replace this process by `tail` of a service's logs, which follows them at a terminal.

    Raises:
        CommandError: there is no such service, or it has no log.
    """
    if service not in _LOG_PATTERNS:
        raise CommandError(f"S={service!r}: expected one of {', '.join(_LOG_PATTERNS)}")
    files = [path for pattern in _LOG_PATTERNS[service].split() for path in sorted(layout.logs.glob(pattern))]
    if not files:
        raise CommandError(f"{service} has no log yet; start it with: make up")
    follow = ["-F"] if sys.stdout.isatty() else []
    _exec("tail", "-n", "50", *follow, *files)


def _exec(program: str, *arguments: str | Path) -> None:
    sys.stdout.flush()
    os.execvp(program, [program, *map(str, arguments)])  # noqa: S606
