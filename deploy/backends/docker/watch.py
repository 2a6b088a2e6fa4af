"""The output of `make status`, `make stats` and `make logs` for a stack in containers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deploy.backends.docker.engine import (
    MONITORING_SERVICES,
    SERVICES,
    Compose,
    Container,
    docker,
    log_lines,
    replace_process,
)
from deploy.backends.docker.monitoring import pages
from deploy.backends.docker.reasons import container_note
from deploy.errors import CommandError
from deploy.rollout.health import health_notes, mixed_models_note
from deploy.security.exposure import description
from deploy.stack import registry_services
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from deploy.stack.text_table import table
from server.system import memory_sizes

_REQUEST_COMMAND = ("python", "-IS", "/usr/local/lib/forkcast/ask.py", "8000")


def status(stack: Stack, compose: Compose, layout: Layout) -> list[str]:
    """Return a table of the containers, the addresses of the stack, and notes on problems."""
    rows = [("NAME", "STATE", "REPLICA", "UPTIME", "CPUS", "MEMORY", "MODEL", "ENGINE", "WORKERS")]
    lines = []
    healths = []
    containers = compose.containers()
    for container in containers:
        health = replica_health(container) if container.service == "server" else {}
        healths.append(health)
        rows.append((*_container_columns(container), *_model_columns(health)))
        lines.extend(_notes(container, health, compose))
    lines.extend(mixed_models_note(healths))
    existing = {container.service for container in containers}
    missing = [service for service in (*SERVICES, *registry_services.own_services(stack)) if service not in existing]
    lines.extend(f"{service} is missing; start it with: make up" for service in missing)
    missing_monitoring = [service for service in MONITORING_SERVICES if stack.monitoring and service not in existing]
    lines.extend(f"{service} is missing; start it with: make monitoring" for service in missing_monitoring)
    return [*table(rows), "", _addresses(stack, containers), description(stack, layout), *lines]


def _addresses(stack: Stack, containers: list[Container]) -> str:
    addresses = {"service": stack.address, "Locust": f"http://127.0.0.1:{stack.locust_port}"}
    if stack.full:
        addresses["MLflow"] = registry_services.mlflow_address(stack)
    return "   ".join(f"{name} {address}" for name, address in (addresses | pages(stack, containers)).items())


def _container_columns(container: Container) -> tuple[str, str, str, str, str, str]:
    state = container.state if container.health in ("healthy", "none") else f"{container.state} ({container.health})"
    up = f"{(datetime.now(UTC) - container.started).total_seconds():.0f} s" if container.state == "running" else ""
    return (
        container.name,
        state,
        container.hostname if container.service == "server" else "",
        up,
        f"{container.cpus:g}" if container.cpus else "",
        memory_sizes.format_size(container.memory) if container.memory else "",
    )


def replica_health(container: Container) -> Mapping[str, Any]:
    """Return the `/health` document of a replica, asked for inside its container; empty if it does not answer."""
    if container.state != "running":
        return {}
    try:
        answer = json.loads(docker("exec", container.id, *_REQUEST_COMMAND, "/health"))
    except (CommandError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _model_columns(health: Mapping[str, Any]) -> tuple[str, str, str]:
    model = health.get("model")
    if not isinstance(model, dict):
        return "", "", ""
    return f"{model['name']} {model['version']}", str(model["engine"]), str(health["workers"])


def _notes(container: Container, health: Mapping[str, Any], compose: Compose) -> list[str]:
    optional = (*registry_services.SERVICES, *MONITORING_SERVICES)
    if container.service in optional and container.state == "exited" and container.restarts == 0:
        return [f"{container.name} is stopped, and the replicas go on serving; start it with: make up"]
    problem = container_note(container, compose)
    return [*([problem] if problem else []), *health_notes(container.name, health)]


def exec_stats(compose: Compose) -> None:
    """Replace this process by `docker stats` of the running containers; without a terminal, print it once."""
    names = [container.name for container in compose.containers() if container.state == "running"]
    if not names:
        raise CommandError("no container runs; see make status")
    options = [] if sys.stdout.isatty() else ["--no-stream"]
    replace_process("stats", *options, *names, environ=compose.environ)


def show_logs(compose: Compose, service: str) -> None:
    """Print what is wrong with a service and its last log lines; at a terminal, follow its log.

    Raises:
        CommandError: there is no such service, or it has no container.
    """
    services = (*SERVICES, *registry_services.SERVICES, *MONITORING_SERVICES, "all")
    if service not in services:
        raise CommandError(f"S={service!r}: expected one of {', '.join(services)}")
    containers = compose.containers(None if service == "all" else service)
    if not containers:
        verb = "monitoring" if service in MONITORING_SERVICES else "up"
        raise CommandError(f"{service} has no log yet; start it with: make {verb}")
    for container in containers:
        if problem := container_note(container, compose):
            print(problem, flush=True)
    if sys.stdout.isatty():
        compose.replace_process(
            "logs", "--follow", "--tail", "50", *sorted({container.service for container in containers})
        )
    for container in containers:
        print("\n".join(f"{container.name} | {line}" for line in log_lines(container.id, 50)))
