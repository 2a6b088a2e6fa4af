"""Tests of replicas in containers during a promotion, and of the registrar, with a fake `docker` command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.backends.docker.engine import Compose, Container
from deploy.backends.docker.rollout import ContainerRegistrar, ContainerReplica
from deploy.errors import CommandError
from tests.support.fake_docker import FakeDocker, container

COMPOSE = Compose({"TAG": "v1"})
RUN_PROMOTE = ["run", "--rm", "--no-TTY", "--no-deps", "model", "python", "-m", "deploy.models.promote"]
CANDIDATE = {"copy": {"version": "2"}, "weight": {"needs": 7}}


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine that runs one ready replica."""
    docker.start_engine()
    docker.answer("events")
    docker.answer("logs", out="starting\nforkcast: the model has no signature\n")
    docker.answer("compose", "run", out=f"a line of Compose\n{json.dumps(CANDIDATE)}\n")
    docker.containers(container())
    return docker


@pytest.fixture
def replica() -> ContainerReplica:
    return ContainerReplica(Container.parse(container()), COMPOSE)


@pytest.fixture
def registrar() -> ContainerRegistrar:
    return ContainerRegistrar(COMPOSE)


def steps(docker: FakeDocker) -> list[list[str]]:
    """Return the arguments of each call of the program."""
    assert all(call.arguments[5 : 5 + len(RUN_PROMOTE)] == RUN_PROMOTE for call in docker.calls)
    assert {call.environ["TAG"] for call in docker.calls} == {"v1"}
    return [call.arguments[5 + len(RUN_PROMOTE) :] for call in docker.calls]


def test_replica_name_is_the_container_name(replica: ContainerReplica) -> None:
    """A replica has the name of its container."""
    assert replica.name == "forkcast-server-1"


@pytest.mark.parametrize(("answer", "health"), [({"reloads": 2}, {"reloads": 2}), ("", {}), ("no json", {}), ([], {})])
def test_health_is_empty_for_invalid_response(
    docker: FakeDocker, replica: ContainerReplica, answer: object, health: dict[str, Any]
) -> None:
    """A replica is queried inside its container, and an invalid response counts as empty."""
    docker.answer("exec", out=answer)
    assert replica.health() == health
    assert docker.calls[-1].arguments[-1] == "/health"


def test_reload_sends_sighup_inside_the_container(docker: FakeDocker, replica: ContainerReplica) -> None:
    """SIGHUP is sent to process 1 from inside the container, since `docker kill` would end its restart policy."""
    docker.answer("exec")
    replica.send_sighup()
    assert docker.calls[-1].arguments == ["exec", container()["Id"], "sh", "-c", "kill -HUP 1"]


def test_unchanged_container_has_no_failure(replica: ContainerReplica) -> None:
    """A container that still runs since the reload has not failed."""
    assert replica.failure() is None


@pytest.mark.parametrize(
    "document",
    [
        container(Status="exited"),
        container(StartedAt="2026-01-02T03:09:05.123456789Z", restarts=1),
        container(Status="restarting", restarts=2),
    ],
)
def test_restarted_container_fails_with_logged_reason(
    docker: FakeDocker, replica: ContainerReplica, document: dict[str, Any]
) -> None:
    """A container that ended or restarted since the reload has failed with the reason in its log."""
    docker.containers(document)
    assert replica.failure() == "it ended while it reloaded: the model has no signature"


def test_oom_kill_names_limit_and_required_memory(docker: FakeDocker, replica: ContainerReplica) -> None:
    """The reason for a replica that ran out of memory names its limit and the memory that the model needs."""
    docker.answer("compose", "run", "cat", out={"needs": 300 << 20})
    docker.containers(container(Status="exited", OOMKilled=True, memory=256 << 20))
    error = "it ended while it reloaded: killed: out of memory at 256M; the model needs about 300M"
    assert replica.failure() == error


def test_removed_container_is_reported_as_failure(docker: FakeDocker, replica: ContainerReplica) -> None:
    """A container that does not exist any more was removed by another process."""
    docker.answer("inspect", out=[], err="no such object\n", status=1)
    docker.answer("inspect", container()["Id"], out=[], err="no such object\n", status=1)
    assert replica.failure() == "the container was removed by another process"


@pytest.mark.parametrize(
    ("query", "force", "arguments"),
    [
        (("2", None), False, ["check", "--", "2"]),
        (("2", "abc"), False, ["check", "--served", "abc", "--", "2"]),
        ((None, "abc"), True, ["check", "--served", "abc", "--force", "--before"]),
    ],
)
def test_check_runs_candidate_in_temporary_container(
    docker: FakeDocker,
    registrar: ContainerRegistrar,
    query: tuple[str | None, str | None],
    force: bool,
    arguments: list[str],
) -> None:
    """The candidate is tested in a temporary container, whose last line of output is the result."""
    assert registrar.check(*query, force=force) == CANDIDATE
    assert steps(docker) == [arguments]


def test_accept_sets_current_and_undo_restores_it(docker: FakeDocker, registrar: ContainerRegistrar) -> None:
    """Accepting makes the candidate current for replicas without a registry; undoing restores the previous model."""
    assert registrar.accept(CANDIDATE) == CANDIDATE
    registrar.undo({})
    assert steps(docker) == [["accept", "--current"], ["undo"]]


def test_failed_step_raises_error_of_the_program(docker: FakeDocker, registrar: ContainerRegistrar) -> None:
    """The error of a failed step is the program's own, without the output of Compose."""
    docker.answer("compose", "run", err="Container made\nerror: version 2 may not be promoted: why\n", status=1)
    with pytest.raises(CommandError) as caught:
        registrar.check("2", None, force=False)
    assert str(caught.value) == "version 2 may not be promoted: why"


def test_engine_failure_is_reported_by_its_last_line(docker: FakeDocker, registrar: ContainerRegistrar) -> None:
    """If the program could not start, the error is the last line of Docker."""
    docker.answer("compose", "run", err="no space left on device\n", status=1)
    with pytest.raises(CommandError, match=r"^docker compose --env-file: no space left on device$"):
        registrar.undo({})
