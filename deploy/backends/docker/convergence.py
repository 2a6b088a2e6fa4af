"""Making the engine run a stack: new replicas start before old ones stop, one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from deploy.backends.docker.engine import SERVICES, Compose, Container, docker, image_id, inspect
from deploy.backends.docker.reasons import reason
from deploy.errors import CommandError
from deploy.rollout import replica_client
from deploy.stack.paths import Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack

# How long a container may take from its start to its first answer, on a small fraction of a CPU.
_READY_TIMEOUT_SECONDS = 300
# How long Nginx may take to use new replicas: it resolves their addresses every second.
_DISCOVERY_TIMEOUT_SECONDS = 10


def converge(compose: Compose, record: Record, layout: Layout, *, replace_all: bool) -> None:
    """Make the engine run exactly this stack; each new replica is ready and known to Nginx before an old one stops.

    ``replace_all`` also replaces replicas that already have the wanted configuration.

    Raises:
        CommandError: a container did not start, with its reason.
    """
    stack = record.wanted
    current, old = _current_and_old(compose, replace_all=replace_all)
    while len(current) < stack.replicas:
        # One at a time while old replicas run: the machine may lack the memory for twice as many.
        current += _start_replicas(compose, stack, layout, 1 if old else stack.replicas - len(current))
        _stop_and_remove(old[:1])
        old = old[1:]
    compose.run("up", "--detach", "--no-deps", "--no-build", *SERVICES[1:])
    wait_ready(compose, [container.id for container in compose.containers() if container.service in SERVICES[1:]])
    wait_ready(compose, [container.id for container in current])
    record.save(layout)
    _wait_for_nginx(stack, layout, current)
    _stop_and_remove(old + current[stack.replicas :])


def _current_and_old(compose: Compose, *, replace_all: bool) -> tuple[list[Container], list[Container]]:
    """Return the replicas with the wanted configuration and image, and the replicas to replace."""
    config = compose.config()["services"]["server"]
    wanted = (config["labels"]["forkcast.config"], image_id(config["image"]))
    current: list[Container] = []
    old: list[Container] = []
    for container in compose.containers("server"):
        # A replica that is still starting is kept, and waited for.
        is_usable = container.is_ready or (container.state == "running" and not container.failed)
        is_current = not replace_all and is_usable and (container.config_label, container.image) == wanted
        (current if is_current else old).append(container)
    return current, old


def _start_replicas(compose: Compose, stack: Stack, layout: Layout, count: int) -> list[Container]:
    """Start ``count`` more replicas and wait until Nginx uses them; if one fails to start, remove all of them."""
    existing = {container.id for container in compose.containers("server")}
    try:
        total = len(existing) + count
        compose.run(
            "up", "--detach", "--no-deps", "--no-build", "--no-recreate", "--scale", f"server={total}", "server"
        )
        started = _new_replicas(compose, existing)
        if not started:
            raise CommandError(f"expected Docker to add {count} replica(s) to the {len(existing)} running, got none")
        wait_ready(compose, [container.id for container in started])
    except BaseException:
        _stop_and_remove(_new_replicas(compose, existing))
        raise
    _wait_for_nginx(stack, layout, started)
    return started


def _new_replicas(compose: Compose, existing: set[str]) -> list[Container]:
    return [container for container in compose.containers("server") if container.id not in existing]


def wait_ready(compose: Compose, ids: Sequence[str]) -> None:
    """Wait until each of these containers is ready.

    Raises:
        CommandError: a container failed or was removed, with the reason, or took too long.
    """
    deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        containers = inspect(ids)
        if failed := next((container for container in containers if container.failed), None):
            raise CommandError(f"{failed.name} did not start: {reason(failed, compose)}")
        if len(containers) < len(ids):
            raise CommandError("a container was removed by another process before it was ready")
        if all(container.is_ready for container in containers):
            return
        time.sleep(0.2)
    names = ", ".join(container.name for container in containers)
    raise CommandError(f"{names}: not ready within {_READY_TIMEOUT_SECONDS} s; see make logs")


def _wait_for_nginx(stack: Stack, layout: Layout, started: Sequence[Container]) -> None:
    """Wait until each new replica has answered through Nginx, so that old replicas can be stopped."""
    access = replica_client.Access.of(stack, layout)
    unseen = {container.hostname for container in started}
    deadline = time.monotonic() + _DISCOVERY_TIMEOUT_SECONDS
    while unseen and time.monotonic() < deadline and replica_client.listens(stack.address):
        unseen.discard(replica_client.identify(stack.address, access).replica)


def _stop_and_remove(containers: Sequence[Container]) -> None:
    """Stop containers at the same time, each after its open requests, and remove them."""
    ids = [container.id for container in containers]
    if ids:
        docker("stop", *ids)
        docker("rm", "--volumes", *ids)
