"""Monitoring of a stack in containers (`make monitoring`): Prometheus, the Nginx exporter, and Grafana if available."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from deploy.backends.docker.convergence import wait_ready
from deploy.backends.docker.engine import MONITORING_SERVICES, Compose, Container, docker, image_id, is_engine_local
from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack import ports
from deploy.stack.specification import Stack

_PORTS = ("PROMETHEUS_PORT", "GRAFANA_PORT")
_PROMETHEUS_SERVICES, _GRAFANA = MONITORING_SERVICES[:-1], MONITORING_SERVICES[-1]


def with_monitoring(stack: Stack, options: Options) -> Stack:
    """Return the stack with its monitoring services, on the ports that the options ask for."""
    return replace(
        stack,
        monitoring=True,
        prometheus_port=options.prometheus_port or stack.prometheus_port,
        grafana_port=options.grafana_port or stack.grafana_port,
    )


def check_ports(stack: Stack, previous: Stack | None) -> None:
    """Refuse monitoring ports that another program uses, before anything is started.

    Raises:
        CommandError: a port is taken; the message names the variable that changes it.
    """
    if stack.prometheus_port == stack.grafana_port:
        raise CommandError(f"GRAFANA_PORT={stack.grafana_port}: Prometheus uses this port; expected another port")
    if not is_engine_local():
        return
    own = {previous.prometheus_port, previous.grafana_port} if previous and previous.monitoring else set()
    for name, port in zip(_PORTS, (stack.prometheus_port, stack.grafana_port), strict=True):
        if port not in own:
            ports.check_unused("127.0.0.1", port, name)


def get_image(compose: Compose, *, published: bool) -> None:
    """Build the Prometheus image from this checkout, or pull it if images are published.

    Raises:
        CommandError: the build or the pull failed, with its last line.
    """
    image = str(compose.config()["services"][_PROMETHEUS_SERVICES[0]]["image"])
    is_here = image_id(image) is not None
    if published and not is_here:
        docker("pull", "--quiet", image)
    if not published:
        if not is_here:
            print("building the Prometheus image (a minute, once)", flush=True)
        compose.run("build", _PROMETHEUS_SERVICES[0])


def up(compose: Compose, *, pull: bool) -> None:
    """Run Prometheus and the exporter, and Grafana if its image is here or, with ``pull``, can be pulled.

    Raises:
        CommandError: Prometheus or the exporter did not start, with the reason.
    """
    _start(compose, *_PROMETHEUS_SERVICES)
    image = str(compose.config()["services"][_GRAFANA]["image"])
    try:
        if image_id(image) is None:
            if not pull:
                return
            print(f"pulling {image} (once)", flush=True)
            docker("pull", "--quiet", image)
        _start(compose, _GRAFANA)
    except CommandError as error:
        print(f"note: Prometheus runs without Grafana: {error}", flush=True)


def pages(stack: Stack, containers: Iterable[Container]) -> dict[str, str]:
    """Return the address on this machine of each running monitoring page, by name."""
    page_ports = {
        _PROMETHEUS_SERVICES[0]: ("Prometheus", stack.prometheus_port),
        _GRAFANA: ("Grafana", stack.grafana_port),
    }
    running = {container.service for container in containers}
    return {name: f"http://127.0.0.1:{port}" for service, (name, port) in page_ports.items() if service in running}


@contextmanager
def stopped_on_failure(compose: Compose, previous: Stack) -> Iterator[None]:
    """If the block fails, stop monitoring that the previous stack did not have, and keep its data."""
    try:
        yield
    except BaseException:
        if not previous.monitoring:
            with suppress(CommandError):  # The error of the block is the one to report.
                compose.run("rm", "--stop", "--force", *MONITORING_SERVICES)
        raise


def _start(compose: Compose, *services: str) -> None:
    compose.run("up", "--detach", "--no-deps", "--no-build", *services)
    wait_ready(compose, [container.id for service in services for container in compose.containers(service)])
