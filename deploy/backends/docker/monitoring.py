"""What watches a stack in containers (`make monitoring`): Prometheus with Nginx's exporter, and Grafana if it can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from deploy.backends.docker.convergence import wait_ready
from deploy.backends.docker.engine import MONITORING, Compose, Container, docker, image_id, is_local
from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack import ports
from deploy.stack.specification import Stack

_PORTS = ("PROMETHEUS_PORT", "GRAFANA_PORT")
_OWN, _GRAFANA = MONITORING[:-1], MONITORING[-1]


def watched(stack: Stack, options: Options) -> Stack:
    """Return the stack with those that watch it, on the ports that the options ask for."""
    return replace(
        stack,
        monitoring=True,
        prometheus_port=options.prometheus_port or stack.prometheus_port,
        grafana_port=options.grafana_port or stack.grafana_port,
    )


def place(stack: Stack, before: Stack | None) -> None:
    """Refuse ports that somebody else listens on, before anything is started.

    Raises:
        CommandError: naming the variable that moves us elsewhere.
    """
    if stack.prometheus_port == stack.grafana_port:
        raise CommandError(f"GRAFANA_PORT={stack.grafana_port}: Prometheus listens there; expected another port")
    if not is_local():
        return
    own = {before.prometheus_port, before.grafana_port} if before and before.monitoring else set()
    for name, port in zip(_PORTS, (stack.prometheus_port, stack.grafana_port), strict=True):
        if port not in own:
            ports.check_unused("127.0.0.1", port, name)


def get_image(compose: Compose, *, published: bool) -> None:
    """Prometheus' image, built from this checkout unless published ones are used.

    Raises:
        CommandError: with the builder's last line.
    """
    image = str(compose.config()["services"][_OWN[0]]["image"])
    there = image_id(image) is not None
    if published and not there:
        docker("pull", "--quiet", image)
    if not published:
        if not there:
            print("building Prometheus' image (a minute, once)", flush=True)
        compose.run("build", _OWN[0])


def up(compose: Compose, *, pull: bool) -> None:
    """Run Prometheus and the exporter, and Grafana if its image is here or, with ``pull``, can be had.

    Raises:
        CommandError: one of the former does not come up, with its reason.
    """
    _start(compose, *_OWN)
    image = str(compose.config()["services"][_GRAFANA]["image"])
    try:
        if image_id(image) is None:
            if not pull:
                return
            print(f"pulling {image} (once)", flush=True)
            docker("pull", "--quiet", image)
        _start(compose, _GRAFANA)
    except CommandError as error:
        print(f"note: Grafana is left out, and Prometheus runs without it: {error}", flush=True)


def pages(stack: Stack, containers: Iterable[Container]) -> dict[str, str]:
    """Where a browser on this machine finds those of the containers that have pages."""
    places = {_OWN[0]: ("Prometheus", stack.prometheus_port), _GRAFANA: ("Grafana", stack.grafana_port)}
    there = {container.service for container in containers}
    return {name: f"http://127.0.0.1:{port}" for service, (name, port) in places.items() if service in there}


@contextmanager
def stopped_on_failure(compose: Compose, before: Stack) -> Iterator[None]:
    """Where a stack was not watched before, it is not after a failure; what was read stays."""
    try:
        yield
    except BaseException:
        if not before.monitoring:
            with suppress(CommandError):  # the reason is the first one
                compose.run("rm", "--stop", "--force", *MONITORING)
        raise


def _start(compose: Compose, *services: str) -> None:
    compose.run("up", "--detach", "--no-deps", "--no-build", *services)
    wait_ready(compose, [container.id for service in services for container in compose.containers(service)])
