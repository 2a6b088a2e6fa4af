"""Making the engine run what a stack asks for: new replicas first, then the old ones go, one by one."""

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

# Seconds that a container may take from its start to its first answer, on a small part of a CPU.
_READY_TIMEOUT = 300
# Seconds in which Nginx is to have met new replicas: it asks for their addresses every second.
_INTRODUCTION = 10


def converge(compose: Compose, record: Record, layout: Layout, *, anew: bool) -> None:
    """Make the engine run exactly this. A new replica is ready, and known to Nginx, before an old one goes.

    Raises:
        CommandError: a container did not start, with its reason.
    """
    stack = record.wanted
    fresh, old = _sorted(compose, anew=anew)
    while len(fresh) < stack.replicas:
        # One at a time while there are old ones: the machine may have no room for twice as many.
        fresh += _start(compose, stack, layout, 1 if old else stack.replicas - len(fresh))
        _stop(old[:1])
        old = old[1:]
    compose.run("up", "--detach", "--no-deps", "--no-build", *SERVICES[1:])
    wait_ready(compose, [one.id for one in compose.containers() if one.service in SERVICES[1:]])
    wait_ready(compose, [container.id for container in fresh])
    record.save(layout)
    _introduce(stack, layout, fresh)
    _stop(old + fresh[stack.replicas :])


def _sorted(compose: Compose, *, anew: bool) -> tuple[list[Container], list[Container]]:
    """The replicas that are as they should be, and those that are not."""
    config = compose.config()["services"]["server"]
    wanted = (config["labels"]["forkcast.config"], image_id(config["image"]))
    fresh: list[Container] = []
    old: list[Container] = []
    for container in compose.containers("server"):
        # One that Docker is still starting counts: it is waited for.
        hopeful = container.well or (container.state == "running" and not container.failed)
        good = not anew and hopeful and (container.config, container.image) == wanted
        (fresh if good else old).append(container)
    return fresh, old


def _start(compose: Compose, stack: Stack, layout: Layout, count: int) -> list[Container]:
    """Start ``count`` more replicas and wait until Nginx knows them; remove them again where one does not start."""
    before = {container.id for container in compose.containers("server")}
    try:
        total = len(before) + count
        compose.run(
            "up", "--detach", "--no-deps", "--no-build", "--no-recreate", "--scale", f"server={total}", "server"
        )
        started = _added(compose, before)
        if not started:
            raise CommandError(f"the engine made no replica beside the {len(before)} that there are")
        wait_ready(compose, [container.id for container in started])
    except BaseException:
        _stop(_added(compose, before))
        raise
    _introduce(stack, layout, started)
    return started


def _added(compose: Compose, before: set[str]) -> list[Container]:
    return [container for container in compose.containers("server") if container.id not in before]


def wait_ready(compose: Compose, ids: Sequence[str]) -> None:
    """Until each of these containers answers.

    Raises:
        CommandError: one does not, with its reason.
    """
    deadline = time.monotonic() + _READY_TIMEOUT
    while time.monotonic() < deadline:
        found = inspect(ids)
        if failed := next((container for container in found if container.failed), None):
            raise CommandError(f"{failed.name} did not start: {reason(failed, compose)}")
        if len(found) < len(ids):
            raise CommandError("a container was removed by somebody else before it was ready")
        if all(container.well for container in found):
            return
        time.sleep(0.2)
    raise CommandError(f"{', '.join(c.name for c in found)}: not ready in {_READY_TIMEOUT} s; see make logs")


def _introduce(stack: Stack, layout: Layout, started: Sequence[Container]) -> None:
    """Wait until Nginx has met new replicas, so that the old ones may go."""
    access = replica_client.Access.of(stack, layout)
    unseen = {container.hostname for container in started}
    deadline = time.monotonic() + _INTRODUCTION
    while unseen and time.monotonic() < deadline and replica_client.listens(stack.address):
        unseen.discard(replica_client.identify(stack.address, access).replica)


def _stop(containers: Sequence[Container]) -> None:
    """Let them finish what they answer, all at once, and remove them."""
    ids = [container.id for container in containers]
    if ids:
        docker("stop", *ids)
        docker("rm", "--volumes", *ids)
