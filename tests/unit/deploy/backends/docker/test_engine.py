"""Tests of the `docker` commands that are run and how their output is read, with a fake command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.backends.docker import engine
from deploy.backends.docker.engine import Compose, Container
from deploy.errors import CommandError
from deploy.options import COMPOSE_VARIABLES, VARIABLES
from deploy.stack.paths import ROOT
from tests.support.fake_docker import FakeDocker, config, container


def test_output_is_returned(docker: FakeDocker) -> None:
    """A command runs in the checkout with the user's environment, and its output is returned."""
    docker.answer("version", out="29.1.0\nand more\n")
    assert engine.docker("version", "--format", "a b") == "29.1.0\nand more\n"
    (call,) = docker.calls
    assert call.arguments == ["version", "--format", "a b"]
    assert call.folder == ROOT
    assert call.environ["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        ("progress\nError: no such thing\n\n", "Error: no such thing"),
        ("  Error: indented  \n \n", "Error: indented"),
        ("", "status 17"),
        (" \n\n", "status 17"),
    ],
)
def test_failed_command_is_one_line(docker: FakeDocker, err: str, reason: str) -> None:
    """The error of a failed command has its first two words and its last line, or else its status."""
    docker.answer("image", out="ignored\n", err=err, status=17)
    with pytest.raises(CommandError) as caught:
        engine.docker("image", "inspect", "--format", "{{.Id}}", "nginx")
    assert str(caught.value) == f"docker image inspect: {reason}"


def test_visible_command_prints_in_order_and_returns_status(
    docker: FakeDocker, capfd: pytest.CaptureFixture[str]
) -> None:
    """A visible command prints after the output of this process, and its status is returned."""
    docker.answer("pull", out="pulled\n", err="warned\n", status=3)
    print("first")
    assert engine.run_visibly("pull", environ={**os.environ, "TAG": "v1"}) == 3
    assert capfd.readouterr() == ("first\npulled\n", "warned\n")
    assert docker.calls[0].environ["TAG"] == "v1"


def test_replaced_process_flushes_its_output_and_keeps_the_status(docker: FakeDocker) -> None:
    """A process that is replaced by `docker` prints its buffered output first and ends with the status of `docker`."""
    docker.answer("stats", out="a table\n", status=5)
    script = (
        "import os; from deploy.backends.docker.engine import replace_process; print('first'); "
        "replace_process('stats', 'one', environ={**os.environ, 'TAG': 'v1'})"
    )
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stdout, completed.stderr) == (5, "first\na table\n", "")
    (call,) = docker.calls
    assert (call.arguments, call.folder, call.environ["TAG"]) == (["stats", "one"], ROOT, "v1")


@pytest.mark.usefixtures("no_docker")
def test_missing_docker_command_is_reported() -> None:
    """Without the `docker` command there is no engine, and every command fails with that reason."""
    assert engine.engine_missing() == "there is no docker command"
    with pytest.raises(CommandError, match=r"^there is no docker command$"):
        engine.docker("version")
    with pytest.raises(CommandError, match=r"^there is no docker command$"):
        Compose({}).config()
    assert engine.image_id("nginx:1.30") is None


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("version",), "no Docker engine answers"),
        (("compose", "version"), "docker has no compose plugin"),
        (("buildx", "version"), "docker has no buildx plugin"),
    ],
)
def test_unreachable_engine_is_reported(docker: FakeDocker, command: tuple[str, ...], reason: str) -> None:
    """A missing engine or plugin is reported as the reason."""
    docker.start_engine()
    assert engine.engine_missing() is None
    docker.answer(*command, err="Cannot connect to the Docker daemon\n", status=1)
    assert engine.engine_missing() == reason


def test_engine_reports_version_and_cpus(docker: FakeDocker) -> None:
    """The version of the engine and the CPUs of its machine are read."""
    docker.start_engine()
    assert engine.engine_version() == "29.1.0"
    assert engine.engine_cpus() == 8


def test_image_id_is_none_for_missing_image(docker: FakeDocker) -> None:
    """An image that the engine has is identified by its id; a missing image has none."""
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
def test_engine_with_a_unix_socket_is_local(
    host: str, local: bool, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine is local if DOCKER_HOST, or else the current context, is a Unix socket."""
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("DOCKER_HOST", value)
        docker.answer("context", "inspect", out=f"{host}\n")
        assert engine.is_engine_local() is local
    assert docker.ran("context") == [["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]] * 2
    docker.answer("context", "inspect", err="the context is not to be asked\n", status=1)
    monkeypatch.setenv("DOCKER_HOST", host)
    assert engine.is_engine_local() is local


def test_inspect_document_is_parsed() -> None:
    """Every field of a container is read from `docker inspect`, its start to the second."""
    document = container(
        number=3, code="0123456789abcdef", folder="/home/me/forkcast", cpus=500_000_000, memory=1 << 29, restarts=2
    )
    parsed = Container.parse(document)
    assert parsed == Container(
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
    assert parsed.hostname == document["Id"][:12]


@pytest.mark.parametrize("started", ["0001-01-01T00:00:00Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1Z"])
def test_start_time_is_parsed_in_every_form(started: str) -> None:
    """A start time may have any number of decimals, and is in the year 1 if the container never started."""
    assert Container.parse(container(StartedAt=started)).started.isoformat() == f"{started[:19]}+00:00"


def test_inspect_document_without_optional_fields_is_parsed() -> None:
    """A container may lack a health check, limits, this project's label and a project folder."""
    document = container("nginx", Health=None)
    del document["Config"]["Labels"]["com.docker.compose.project.working_dir"]
    parsed = Container.parse(document)
    assert (parsed.health, parsed.config_label, parsed.project_folder, parsed.cpus, parsed.memory) == (
        "none",
        "",
        "",
        0,
        0,
    )
    del document["State"]["Health"]
    assert Container.parse(document) == parsed


@pytest.mark.parametrize(
    ("state", "is_ready", "failed"),
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
def test_container_is_ready_failed_or_starting(state: dict[str, Any], is_ready: bool, failed: bool) -> None:
    """A container is ready if it answers, failed if it ended and does not answer, and else still starting."""
    parsed = Container.parse(container(**state))
    assert (parsed.is_ready, parsed.failed) == (is_ready, failed)


def test_containers_are_ordered_by_service_and_number(docker: FakeDocker) -> None:
    """Containers are ordered by service and number, without those of other services."""
    documents = [container("locust"), container(number=10), container("nginx"), container("model"), container(number=9)]
    docker.containers(*documents)
    assert [c.name.removeprefix("forkcast-") for c in engine.inspect([document["Id"] for document in documents])] == [
        "server-9",
        "server-10",
        "nginx-1",
        "locust-1",
    ]


def test_empty_list_of_containers_runs_no_command(docker: FakeDocker) -> None:
    """Inspecting no containers runs no command."""
    assert engine.inspect([]) == []
    assert docker.calls == []


def test_removed_container_is_left_out(docker: FakeDocker) -> None:
    """A removed container makes the command fail, but the others are still returned."""
    docker.answer("inspect", out=[container()], err="Error: No such object: gone\n", status=1)
    assert [parsed.number for parsed in engine.inspect(["gone", "here"])] == [1]
    docker.answer("inspect", err="Cannot connect to the Docker daemon\n", status=1)
    assert engine.inspect(["gone"]) == []


def test_logs_of_both_outputs_are_decoded(docker: FakeDocker) -> None:
    """Standard output and standard error of a container are read, and invalid UTF-8 is replaced."""
    docker.answer("logs", out="one\ntwo\n", err="three\n")
    assert sorted(engine.log_lines("abc", 7)) == ["one", "three", "two"]
    assert docker.calls[0].arguments == ["logs", "--tail", "7", "abc"]
    (docker.folder / "docker").write_text("#!/bin/sh\nprintf 'caf\\351\\n'\n")
    assert engine.log_lines("abc", 7) == ["caf\N{REPLACEMENT CHARACTER}"]


def test_compose_gets_variables_only_from_the_stack(docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of docker-compose.yml come only from the stack; other variables of the user's shell are kept."""
    for name in COMPOSE_VARIABLES:
        monkeypatch.setenv(name, "the shell's")
    monkeypatch.setenv("HOME", "/home/me")
    docker.answer("compose", "up", out="done\n")
    assert Compose({"TAG": "v1", "COMPOSE_PROJECT_NAME": "other"}).run("up", "--detach") == "done\n"
    (call,) = docker.calls
    assert call.arguments == ["compose", "--env-file", "/dev/null", "--ansi", "never", "up", "--detach"]
    passed = {name: call.environ[name] for name in (*COMPOSE_VARIABLES, "COMPOSE_PROJECT_NAME") if name in call.environ}
    assert passed == {"TAG": "v1", "COMPOSE_PROJECT_NAME": "other"}
    assert call.environ["HOME"] == "/home/me"


def test_compose_runs_in_the_checkout_by_its_real_path(docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose gets the real path of the checkout, since it would derive the project name from a symbolic link."""
    monkeypatch.setenv("PWD", "/srv/link")
    docker.answer("compose", "up")
    Compose({}).run("up")
    (call,) = docker.calls
    assert (call.folder, call.environ["PWD"]) == (ROOT, str(ROOT))


def test_every_setting_is_a_compose_variable() -> None:
    """Every persistent setting of a stack is a variable that Compose gets only from the stack."""
    assert {variable.name for variable in VARIABLES if variable.persistent} < set(COMPOSE_VARIABLES)
    assert len(COMPOSE_VARIABLES) == len(set(COMPOSE_VARIABLES))


def test_compose_failure_is_one_line(docker: FakeDocker) -> None:
    """The error of a failed Compose command is one line; that of a visible one has its status."""
    docker.answer("compose", err="service server has no image\n", status=15)
    with pytest.raises(CommandError, match=r"^docker compose --env-file: service server has no image$"):
        Compose({}).run("up")
    with pytest.raises(CommandError, match=r"^docker compose up ended with status 15$"):
        Compose({}).run_visibly("up")


def test_interrupted_visible_command_stops_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that ends the command ends the process that it waits for, too."""
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 5\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            Compose({}).run_visibly("up")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_replaced_process_gets_stack_variables(docker: FakeDocker) -> None:
    """A process that is replaced by Compose passes on the variables of the stack."""
    docker.answer("compose", "logs", out="lines\n")
    script = (
        "from deploy.backends.docker.engine import Compose; Compose({'TAG': 'v1'}).replace_process('logs', 'server')"
    )
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout == "lines\n"
    assert docker.calls[0].environ["TAG"] == "v1"


def digest(docker: FakeDocker, **server: object) -> str:
    docker.answer("compose", "config", out=config(**server))
    return str(Compose({}).with_config_label("").config()["services"]["server"]["labels"]["forkcast.config"])


def test_config_label_differs_between_configurations(docker: FakeDocker) -> None:
    """The label changes with limits and variables, but not with build settings and other labels."""
    first = digest(docker)
    assert len(first) == 17
    assert digest(docker) == first
    assert digest(docker, build={"context": "/elsewhere"}, labels={"forkcast.config": first}, depends_on={}) == first
    different = [
        digest(docker, cpus=2),
        digest(docker, environment={"ENGINE": "sklearn"}),
        digest(docker, image="other"),
    ]
    assert len({first, *different}) == 4


@pytest.mark.parametrize(("service", "filters"), [(None, 2), ("server", 3)])
def test_containers_are_filtered_by_project_and_service(docker: FakeDocker, service: str | None, filters: int) -> None:
    """All containers of the project and service are listed, running or not, except one-shot ones."""
    docker.start_engine()
    docker.containers(container(number=2), container(number=1))
    assert [parsed.number for parsed in Compose({}).containers(service)] == [1, 2]
    (command,) = docker.ran("ps")
    assert {"--all", "--no-trunc", "label=com.docker.compose.project=forkcast"} < set(command)
    assert "label=com.docker.compose.oneoff=False" in command
    assert ("label=com.docker.compose.service=server" in command) is (service is not None)
    assert command.count("--filter") == filters


def test_containers_are_compared_by_value() -> None:
    """Two readings of the same container are equal."""
    first, second = (Container.parse(container()) for _ in range(2))
    assert first == second
    assert replace(first, restarts=1) != second


def test_compose_file_of_the_checkout_is_used(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compose uses the file of the checkout from any working directory."""
    docker.start_engine()
    monkeypatch.chdir(tmp_path)
    Compose({}).config()
    assert docker.calls[0].folder == ROOT
    assert (ROOT / "docker-compose.yml").is_file()
