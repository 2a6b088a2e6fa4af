"""What is asked of `docker`, and how its answers are read: the command is a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.backends.docker import engine
from deploy.backends.docker.engine import Compose, Container
from deploy.errors import CommandError
from deploy.options import COMPOSE_VARIABLES, VARIABLES
from deploy.stack.paths import ROOT
from tests.support.fake_docker import FakeDocker, config, container


def test_output_is_returned(docker: FakeDocker) -> None:
    """A command runs in the checkout, with nothing to read and the user's environment, and gives what it printed."""
    docker.answer("version", out="29.1.0\nand more\n")
    assert engine.docker("version", "--format", "a b") == "29.1.0\nand more\n"
    (call,) = docker.calls
    assert call.arguments == ["version", "--format", "a b"]
    assert call.folder == ROOT
    assert call.environ["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("err", "told"),
    [
        ("progress\nError: no such thing\n\n", "Error: no such thing"),
        ("  Error: indented  \n \n", "Error: indented"),
        ("", "status 17"),
        (" \n\n", "status 17"),
    ],
)
def test_failure_is_one_line(docker: FakeDocker, err: str, told: str) -> None:
    """A command that fails is told by its first two words and its last line, else its status."""
    docker.answer("image", out="ignored\n", err=err, status=17)
    with pytest.raises(CommandError) as caught:
        engine.docker("image", "inspect", "--format", "{{.Id}}", "nginx")
    assert str(caught.value) == f"docker image inspect: {told}"


def test_shown_command_prints_in_order_and_returns_status(
    docker: FakeDocker, capfd: pytest.CaptureFixture[str]
) -> None:
    """A command for the user's eyes prints where we do, after what we printed, and gives its status."""
    docker.answer("pull", out="pulled\n", err="warned\n", status=3)
    print("first")
    assert engine.run_visibly("pull", environ={**os.environ, "TAG": "v1"}) == 3
    assert capfd.readouterr() == ("first\npulled\n", "warned\n")
    assert docker.calls[0].environ["TAG"] == "v1"


def test_become_docker_flushes_output_and_keeps_status(docker: FakeDocker) -> None:
    """A process that becomes the command prints what it had to say first, and ends with its status."""
    docker.answer("stats", out="a table\n", status=5)
    script = (
        "import os; from deploy.backends.docker.engine import replace_process; print('first'); "
        "replace_process('stats', 'one', environ={**os.environ, 'TAG': 'v1'})"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (5, "first\na table\n", "")
    (call,) = docker.calls
    assert (call.arguments, call.folder, call.environ["TAG"]) == (["stats", "one"], ROOT, "v1")


@pytest.mark.usefixtures("no_docker")
def test_missing_docker_command_is_reported() -> None:
    """Without the command there is no engine, and whatever is asked of it is refused with that."""
    assert engine.engine_missing() == "there is no docker command"
    with pytest.raises(CommandError, match=r"^there is no docker command$"):
        engine.docker("version")
    with pytest.raises(CommandError, match=r"^there is no docker command$"):
        Compose({}).config()
    assert engine.image_id("nginx:1.30") is None


@pytest.mark.parametrize(
    ("command", "why_not"),
    [
        (("version",), "no Docker engine answers"),
        (("compose", "version"), "docker has no compose plugin"),
        (("buildx", "version"), "docker has no buildx plugin"),
    ],
)
def test_unreachable_engine_is_reported(docker: FakeDocker, command: tuple[str, ...], why_not: str) -> None:
    """A command without an engine, or without a plugin, is told in words."""
    docker.start_engine()
    assert engine.engine_missing() is None
    docker.answer(*command, err="Cannot connect to the Docker daemon\n", status=1)
    assert engine.engine_missing() == why_not


def test_engine_reports_version_and_cpus(docker: FakeDocker) -> None:
    """Its version and its machine's CPUs are read as it tells them."""
    docker.start_engine()
    assert engine.engine_version() == "29.1.0"
    assert engine.engine_cpus() == 8


def test_image_id_is_none_for_missing_image(docker: FakeDocker) -> None:
    """An image that the engine has is told by its id; one that it lacks has none."""
    docker.answer("image", "inspect", "nginx:1.30", out="sha256:77\n")
    assert engine.image_id("nginx:1.30") == "sha256:77"
    assert engine.image_id("nginx:1.31") is None


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("unix:///run/user/1000/docker.sock", True),
        ("tcp://10.0.0.1:2375", False),
        ("ssh://me@there", False),
    ],
)
def test_engine_of_this_machine(host: str, local: bool, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is reached by a Unix socket runs here; DOCKER_HOST says so, or else the current context."""
    for unset in (None, ""):
        if unset is not None:
            monkeypatch.setenv("DOCKER_HOST", unset)
        docker.answer("context", "inspect", out=f"{host}\n")
        assert engine.is_engine_local() is local
    assert docker.ran("context") == [["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]] * 2
    docker.answer("context", "inspect", err="the context is not to be asked\n", status=1)
    monkeypatch.setenv("DOCKER_HOST", host)
    assert engine.is_engine_local() is local


def test_container_is_read() -> None:
    """All that a replica's description holds is read from `docker inspect`, its start to the second."""
    document = container(
        number=3, code="0123456789abcdef", folder="/home/me/forkcast", cpus=500_000_000, memory=1 << 29, restarts=2
    )
    one = Container.parse(document)
    assert one == Container(
        id=document["Id"],
        name="forkcast-server-3",
        service="server",
        number=3,
        image="sha256:1",
        config_label="c1",
        code_digest="0123456789abcdef",
        project_folder="/home/me/forkcast",
        state="running",
        health="healthy",
        oom_killed=False,
        restarts=2,
        started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        cpus=0.5,
        memory=1 << 29,
    )
    assert one.hostname == document["Id"][:12]


@pytest.mark.parametrize("started", ["0001-01-01T00:00:00Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1Z"])
def test_start_is_read_in_every_form(started: str) -> None:
    """The engine writes a start with as many digits as it needs, and one that never was as year 1."""
    assert Container.parse(container(StartedAt=started)).started.isoformat() == f"{started[:19]}+00:00"


def test_container_without_optional_fields_is_read() -> None:
    """A container without a health check, a limit, our label or a folder is read all the same."""
    document = container("nginx", Health=None)
    del document["Config"]["Labels"]["com.docker.compose.project.working_dir"]
    one = Container.parse(document)
    assert (one.health, one.config_label, one.project_folder, one.cpus, one.memory) == ("none", "", "", 0, 0)
    del document["State"]["Health"]
    assert Container.parse(document) == one


@pytest.mark.parametrize(
    ("state", "well", "failed"),
    [
        ({}, True, False),
        ({"Health": None}, True, False),
        ({"Health": {"Status": "starting"}}, False, False),
        ({"Health": {"Status": "unhealthy"}}, False, False),
        ({"Health": {"Status": "starting"}, "restarts": 1}, False, True),
        ({"restarts": 1}, True, False),
        ({"Status": "created"}, False, False),
        ({"Status": "restarting"}, False, True),
        ({"Status": "exited"}, False, True),
        ({"Status": "dead"}, False, True),
        ({"Status": "paused"}, False, False),
        ({"Status": "exited", "OOMKilled": True}, False, True),
    ],
)
def test_how_a_container_is(state: dict[str, Any], well: bool, failed: bool) -> None:
    """One is well that answers, failed that ended and does not answer; one that is on its way is neither."""
    one = Container.parse(container(**state))
    assert (one.is_ready, one.failed) == (well, failed)


def test_containers_are_ordered_by_service_and_number(docker: FakeDocker) -> None:
    """Containers come in the order of services and of their numbers, without those of no service of ours."""
    found = [container("locust"), container(number=10), container("nginx"), container("model"), container(number=9)]
    docker.containers(*found)
    assert [one.name.removeprefix("forkcast-") for one in engine.inspect([one["Id"] for one in found])] == [
        "server-9",
        "server-10",
        "nginx-1",
        "locust-1",
    ]


def test_no_container_is_not_asked_for(docker: FakeDocker) -> None:
    """Nothing is asked where nothing is wanted."""
    assert engine.inspect([]) == []
    assert docker.calls == []


def test_vanished_container_fails_the_command(docker: FakeDocker) -> None:
    """One that is gone makes the command fail; the others are told."""
    docker.answer("inspect", out=[container()], err="Error: No such object: gone\n", status=1)
    assert [one.number for one in engine.inspect(["gone", "here"])] == [1]
    docker.answer("inspect", err="Cannot connect to the Docker daemon\n", status=1)
    assert engine.inspect(["gone"]) == []


def test_logs_of_both_outputs_are_decoded(docker: FakeDocker) -> None:
    """What a container printed to either of its outputs is read, whatever bytes it is made of."""
    docker.answer("logs", out="one\ntwo\n", err="three\n")
    assert sorted(engine.log_lines("abc", 7)) == ["one", "three", "two"]
    assert docker.calls[0].arguments == ["logs", "--tail", "7", "abc"]
    (docker.folder / "docker").write_text("#!/bin/sh\nprintf 'caf\\351\\n'\n")
    assert engine.log_lines("abc", 7) == ["caf\N{REPLACEMENT CHARACTER}"]


def test_compose_sees_its_own_variables_alone(docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file asks for comes from the stack; what the user's shell holds of it does not count, the rest does."""
    for name in COMPOSE_VARIABLES:
        monkeypatch.setenv(name, "the shell's")
    monkeypatch.setenv("HOME", "/home/me")
    docker.answer("compose", "up", out="done\n")
    assert Compose({"TAG": "v1", "COMPOSE_PROJECT_NAME": "other"}).run("up", "--detach") == "done\n"
    (call,) = docker.calls
    assert call.arguments == ["compose", "--env-file", "/dev/null", "--ansi", "never", "up", "--detach"]
    asked = {name: call.environ[name] for name in (*COMPOSE_VARIABLES, "COMPOSE_PROJECT_NAME") if name in call.environ}
    assert asked == {"TAG": "v1", "COMPOSE_PROJECT_NAME": "other"}
    assert call.environ["HOME"] == "/home/me"


def test_compose_runs_in_the_checkout_by_its_real_path(docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell's way to the checkout, which may be a link, does not reach Compose: it would name the project by it."""
    monkeypatch.setenv("PWD", "/srv/link")
    docker.answer("compose", "up")
    Compose({}).run("up")
    (call,) = docker.calls
    assert (call.folder, call.environ["PWD"]) == (ROOT, str(ROOT))


def test_every_setting_is_asked_for() -> None:
    """No setting of a stack reaches Compose past the stack."""
    assert {one.name for one in VARIABLES if one.persistent} < set(COMPOSE_VARIABLES)
    assert len(COMPOSE_VARIABLES) == len(set(COMPOSE_VARIABLES))


def test_compose_failure_is_one_line(docker: FakeDocker) -> None:
    """A failure of Compose is one line; where the user sees its output, its status."""
    docker.answer("compose", err="service server has no image\n", status=15)
    with pytest.raises(CommandError, match=r"^docker compose --env-file: service server has no image$"):
        Compose({}).run("up")
    assert Compose({}).run_visibly("up") == 15


def test_become_compose_passes_stack_variables(docker: FakeDocker) -> None:
    """A process can become Compose, with the stack's variables."""
    docker.answer("compose", "logs", out="lines\n")
    script = (
        "from deploy.backends.docker.engine import Compose; Compose({'TAG': 'v1'}).replace_process('logs', 'server')"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "lines\n"
    assert docker.calls[0].environ["TAG"] == "v1"


def digest(docker: FakeDocker, **server: object) -> str:
    docker.answer("compose", "config", out=config(**server))
    return str(Compose({}).with_config_label("").config()["services"]["server"]["labels"]["forkcast.config"])


def test_digest_tells_configurations_apart(docker: FakeDocker) -> None:
    """Another limit or variable is another digest; how an image is built, and labels, are not part of it."""
    once = digest(docker)
    assert len(once) == 17
    assert digest(docker) == once
    assert digest(docker, build={"context": "/elsewhere"}, labels={"forkcast.config": once}, depends_on={}) == once
    others = [digest(docker, cpus=2), digest(docker, environment={"ENGINE": "sklearn"}), digest(docker, image="other")]
    assert len({once, *others}) == 4


@pytest.mark.parametrize(("service", "filters"), [(None, 2), ("server", 3)])
def test_containers_of_this_project(docker: FakeDocker, service: str | None, filters: int) -> None:
    """The engine is asked for the project's containers, running or not, of one service or all, and no one-shot ones."""
    docker.start_engine()
    docker.containers(container(number=2), container(number=1))
    assert [one.number for one in Compose({}).containers(service)] == [1, 2]
    (asked,) = docker.ran("ps")
    assert {"--all", "--no-trunc", "label=com.docker.compose.project=forkcast"} < set(asked)
    assert "label=com.docker.compose.oneoff=False" in asked
    assert ("label=com.docker.compose.service=server" in asked) is (service is not None)
    assert asked.count("--filter") == filters


def test_containers_are_compared_by_what_they_are() -> None:
    """Two readings of the same container are equal, and nothing can change one."""
    one, again = (Container.parse(container()) for _ in range(2))
    assert one == again
    assert replace(one, restarts=1) != again


def test_program_is_found_in_the_checkout(docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command is called from, Compose finds the checkout's own file."""
    docker.start_engine()
    monkeypatch.chdir(tmp_path)
    Compose({}).config()
    assert docker.calls[0].folder == ROOT
    assert (ROOT / "docker-compose.yml").is_file()
