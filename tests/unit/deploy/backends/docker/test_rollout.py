"""Replicas in containers as a promotion sees them, and its registrar. The `docker` command is a stand-in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.backends.docker.engine import Compose, Container
from deploy.backends.docker.rollout import ContainerRegistrar, ContainerReplica
from deploy.errors import CommandError
from tests.support.fake_docker import FakeDocker, container

COMPOSE = Compose({"TAG": "v1"})
ONCE = ["run", "--rm", "--no-TTY", "--no-deps", "model", "python", "-m", "deploy.models.promote"]
CANDIDATE = {"copy": {"version": "2"}, "weight": {"needs": 7}}


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine that runs one replica, which is well."""
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
    """What was asked of the program, each time."""
    assert all(call.arguments[5 : 5 + len(ONCE)] == ONCE for call in docker.calls)
    assert {call.environ["TAG"] for call in docker.calls} == {"v1"}
    return [call.arguments[5 + len(ONCE) :] for call in docker.calls]


def test_replica_name_is_the_container_name(replica: ContainerReplica) -> None:
    """A replica is called what `docker ps` calls it."""
    assert replica.name == "forkcast-server-1"


@pytest.mark.parametrize(("answer", "told"), [({"reloads": 2}, {"reloads": 2}), ("", {}), ("no json", {}), ([], {})])
def test_health_is_empty_for_invalid_response(
    docker: FakeDocker, replica: ContainerReplica, answer: object, told: dict[str, Any]
) -> None:
    """It is asked from within, on a new connection each time; what is no answer is empty."""
    docker.answer("exec", out=answer)
    assert replica.health() == told
    assert docker.calls[-1].arguments[-1] == "/health"


def test_reload_sends_sighup_inside_the_container(docker: FakeDocker, replica: ContainerReplica) -> None:
    """Its process 1 is sent SIGHUP from within: to the engine, `docker kill` is the end of its restarts."""
    docker.answer("exec")
    replica.send_sighup()
    assert docker.calls[-1].arguments == ["exec", container()["Id"], "sh", "-c", "kill -HUP 1"]


def test_unchanged_container_has_no_failure(replica: ContainerReplica) -> None:
    """A container that is the one that it was has not failed."""
    assert replica.failure() is None


@pytest.mark.parametrize(
    "now",
    [
        container(Status="exited"),
        container(StartedAt="2026-01-02T03:09:05.123456789Z", restarts=1),
        container(Status="restarting", restarts=2),
    ],
)
def test_restarted_container_fails_with_logged_reason(
    docker: FakeDocker, replica: ContainerReplica, now: dict[str, Any]
) -> None:
    """One that ended, or was started again meanwhile, has failed for the reason that it logged."""
    docker.containers(now)
    assert replica.failure() == "it ended while it reloaded: the model has no signature"


def test_oom_kill_names_limit_and_required_memory(docker: FakeDocker, replica: ContainerReplica) -> None:
    """One that the kernel killed for its memory says so, with what would have been enough."""
    docker.answer("compose", "run", "cat", out={"needs": 300 << 20})
    docker.containers(container(Status="exited", OOMKilled=True, memory=256 << 20))
    told = "it ended while it reloaded: killed: out of memory at 256M; the model needs about 300M"
    assert replica.failure() == told


def test_removed_container_is_reported_as_failure(docker: FakeDocker, replica: ContainerReplica) -> None:
    """One that is no longer there was removed by another process."""
    docker.answer("inspect", out=[], err="no such object\n", status=1)
    docker.answer("inspect", container()["Id"], out=[], err="no such object\n", status=1)
    assert replica.failure() == "the container was removed by another process"


@pytest.mark.parametrize(
    ("asked", "force", "arguments"),
    [
        (("2", None), False, ["check", "--", "2"]),
        (("2", "abc"), False, ["check", "--served", "abc", "--", "2"]),
        ((None, "abc"), True, ["check", "--served", "abc", "--force", "--before"]),
    ],
)
def test_check_runs_candidate_in_temporary_container(
    docker: FakeDocker,
    registrar: ContainerRegistrar,
    asked: tuple[str | None, str | None],
    force: bool,
    arguments: list[str],
) -> None:
    """The candidate is tried in a container that is thrown away; the last line that it prints counts."""
    assert registrar.check(*asked, force=force) == CANDIDATE
    assert steps(docker) == [arguments]


def test_accept_sets_current_and_undo_restores_it(docker: FakeDocker, registrar: ContainerRegistrar) -> None:
    """What is accepted is current for the replicas, which have no registry, and is taken back in the same way."""
    assert registrar.accept(CANDIDATE) == CANDIDATE
    registrar.undo({})
    assert steps(docker) == [["accept", "--current"], ["undo"]]


def test_failed_step_raises_error_of_the_program(docker: FakeDocker, registrar: ContainerRegistrar) -> None:
    """The reason of a step that failed is the program's own, without what Compose says around it."""
    docker.answer("compose", "run", err="Container made\nerror: version 2 may not be promoted: why\n", status=1)
    with pytest.raises(CommandError) as caught:
        registrar.check("2", None, force=False)
    assert str(caught.value) == "version 2 may not be promoted: why"


def test_engine_failure_is_reported_by_its_last_line(docker: FakeDocker, registrar: ContainerRegistrar) -> None:
    """Where the program did not come to say why, the engine's last line is the reason."""
    docker.answer("compose", "run", err="no space left on device\n", status=1)
    with pytest.raises(CommandError, match=r"^docker compose --env-file: no space left on device$"):
        registrar.undo({})
