"""Tests of the registry's services in containers: which start, in which order, and how failures are reported."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.backends.docker import registry
from deploy.backends.docker.engine import Compose
from deploy.errors import CommandError
from deploy.stack.registry_services import with_registry
from deploy.stack.specification import Stack
from tests.support.fake_docker import FakeDocker, container
from tests.support.options import options

FULL = with_registry(Stack(), options(), registry.ADDRESS, full=True)
SERVICES = ("database", "object-store", "mlflow")


@pytest.fixture
def compose(docker: FakeDocker) -> Compose:
    docker.start_engine()
    docker.answer("compose", "up")
    docker.answer("compose", "rm")
    return Compose({})


def running(docker: FakeDocker, **changes: Any) -> None:
    """Run the registry's containers, all ready except for ``changes`` in the state of MLflow."""
    for service in SERVICES:
        document = container(service, **(changes if service == "mlflow" else {}))
        docker.answer("ps", f"label=com.docker.compose.service={service}", out=f"{document['Id']}\n")
        docker.answer("inspect", document["Id"], out=[document])
    stores = [container("database"), container("object-store")]
    docker.answer("inspect", *(store["Id"] for store in stores), out=stores)


def started(docker: FakeDocker) -> list[list[str]]:
    return [call[call.index("--no-build") + 1 :] for call in docker.ran("compose", "up")]


def test_stores_start_before_mlflow(docker: FakeDocker, compose: Compose) -> None:
    """The database and the object store are ready before MLflow starts."""
    running(docker)
    registry.up(compose, FULL)
    assert started(docker) == [["database", "object-store"], ["mlflow"]]


def test_user_provided_services_are_not_started(docker: FakeDocker, compose: Compose) -> None:
    """A service that the user replaces is not started, and a stack without a registry starts none."""
    running(docker)
    registry.up(compose, with_registry(Stack(), options(DATABASE_URL="mysql://h/n"), registry.ADDRESS, full=True))
    assert started(docker) == [["object-store"], ["mlflow"]]
    registry.up(compose, Stack())
    assert len(started(docker)) == 2


@pytest.mark.parametrize(
    "state", [{"Health": {"Status": "unhealthy"}}, {"Status": "restarting"}, {"Status": "exited", "restarts": 2}]
)
def test_failed_service_is_reported_by_its_last_line(
    docker: FakeDocker, compose: Compose, state: dict[str, object]
) -> None:
    """The error for a service that does not start has the last line that it printed."""
    running(docker, **state)
    docker.answer("logs", out="starting\nerror: the database said no\n")
    docker.answer("events")
    docker.answer("compose", "run", out="{}")
    with pytest.raises(CommandError, match=r"^forkcast-mlflow-1 did not start: error: the database said no$"):
        registry.up(compose, FULL)


def test_remove_stops_the_registry_and_keeps_its_data(docker: FakeDocker, compose: Compose) -> None:
    """The containers of the stack's own registry are removed, but its volumes are kept."""
    registry.remove(compose, FULL)
    (removed,) = docker.ran("compose", "rm")
    assert removed[5:] == ["rm", "--stop", "--force", *SERVICES]
