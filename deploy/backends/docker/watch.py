"""Looking at a stack in containers: `make status`, `make stats`, `make logs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deploy.backends.docker.engine import MONITORING, SERVICES, Compose, Container, docker, log_lines, replace_process
from deploy.backends.docker.monitoring import pages
from deploy.backends.docker.reasons import note
from deploy.errors import CommandError
from deploy.rollout.health import health_notes, mixed_models_note
from deploy.security.exposure import description
from deploy.stack import registry_services
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from deploy.stack.text_table import table
from server.system import memory_sizes

_ASK = ("python", "-IS", "/usr/local/lib/forkcast/ask.py", "8000")


def status(stack: Stack, compose: Compose, layout: Layout) -> list[str]:
    """A line a container, where to reach the stack, and what is wrong."""
    rows = [("NAME", "STATE", "REPLICA", "UPTIME", "CPUS", "MEMORY", "MODEL", "ENGINE", "WORKERS")]
    lines = []
    healths = []
    containers = compose.containers()
    for container in containers:
        told = health(container) if container.service == "server" else {}
        healths.append(told)
        rows.append((*_container(container), *_model(told)))
        lines.extend(_notes(container, told, compose))
    lines.extend(mixed_models_note(healths))
    there = {container.service for container in containers}
    missing = [service for service in (*SERVICES, *registry_services.own_services(stack)) if service not in there]
    lines.extend(f"{service} is not there: make up brings it back" for service in missing)
    unwatched = [service for service in MONITORING if stack.monitoring and service not in there]
    lines.extend(f"{service} is not there: make monitoring brings it back" for service in unwatched)
    return [*table(rows), "", _places(stack, containers), description(stack, layout), *lines]


def _places(stack: Stack, containers: list[Container]) -> str:
    places = {"service": stack.address, "Locust": f"http://127.0.0.1:{stack.locust_port}"}
    if stack.full:
        places["MLflow"] = registry_services.mlflow_address(stack)
    return "   ".join(f"{name} {address}" for name, address in (places | pages(stack, containers)).items())


def _container(container: Container) -> tuple[str, str, str, str, str, str]:
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


def health(container: Container) -> Mapping[str, Any]:
    """What a replica says of itself."""
    if container.state != "running":
        return {}
    try:
        answer = json.loads(docker("exec", container.id, *_ASK, "/health"))
    except (CommandError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _model(told: Mapping[str, Any]) -> tuple[str, str, str]:
    model = told.get("model")
    if not isinstance(model, dict):
        return "", "", ""
    return f"{model['name']} {model['version']}", str(model["engine"]), str(told["workers"])


def _notes(container: Container, told: Mapping[str, Any], compose: Compose) -> list[str]:
    beside = (*registry_services.SERVICES, *MONITORING)
    if container.service in beside and container.state == "exited" and container.restarts == 0:
        return [f"{container.name} is stopped: make up starts it; what is served is served on"]
    ill = note(container, compose)
    return [*([ill] if ill else []), *health_notes(container.name, told)]


def become_stats(compose: Compose) -> None:
    """`docker stats` of this stack's containers; once where there is no terminal. Does not return."""
    names = [container.name for container in compose.containers() if container.state == "running"]
    if not names:
        raise CommandError("no container runs; see make status")
    once = [] if sys.stdout.isatty() else ["--no-stream"]
    replace_process("stats", *once, *names, environ=compose.environ)


def show_logs(compose: Compose, service: str) -> None:
    """The last lines of a service, after what is wrong with it; at a terminal, more as they come.

    Raises:
        CommandError: there is no such service, or it has no container.
    """
    services = (*SERVICES, *registry_services.SERVICES, *MONITORING, "all")
    if service not in services:
        raise CommandError(f"S={service!r}: expected one of {', '.join(services)}")
    containers = compose.containers(None if service == "all" else service)
    if not containers:
        verb = "monitoring" if service in MONITORING else "up"
        raise CommandError(f"{service} has no log yet; start it with: make {verb}")
    for container in containers:
        if told := note(container, compose):
            print(told, flush=True)
    if sys.stdout.isatty():
        compose.become("logs", "--follow", "--tail", "50", *sorted({container.service for container in containers}))
    for container in containers:
        print("\n".join(f"{container.name} | {line}" for line in log_lines(container.id, 50)))
