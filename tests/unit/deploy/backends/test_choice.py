"""Tests of the choice of a backend, with a fake `docker` command."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.backends.base import Backend
from deploy.backends.choice import choose, used_docker_backend
from deploy.backends.docker.backend import DockerBackend
from deploy.backends.docker.topology import DEFAULT
from deploy.backends.local.backend import LocalBackend
from deploy.errors import CommandError
from deploy.options import MAX_REPLICAS
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack
from tests.support import macos
from tests.support.fake_docker import FakeDocker, container
from tests.support.options import options
from tests.support.refusals import refusal

PULL_FAILED = "docker pull --quiet: no such host"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.chdir(tmp_path)  # the local backend changes into the stack's folder
    return Layout(tmp_path / "var")


@pytest.fixture
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine that could run the stack, and runs nothing."""
    docker.start_engine()
    return docker


def refused_choice(layout: Layout, wanted: str, *, starting: bool) -> str:
    """Return why a choice of BACKEND is refused."""
    return refusal(lambda: choose(layout, options(BACKEND=wanted), starting=starting))


def save(layout: Layout, stack: Stack) -> None:
    layout.make()
    Record(stack).save(layout)


@pytest.mark.parametrize("starting", [True, False])
@pytest.mark.parametrize("wanted", ["kubernetes", "LOCAL", "docker ", "podman"])
def test_unknown_backend_is_refused_without_side_effects(
    layout: Layout, docker: FakeDocker, wanted: str, starting: bool
) -> None:
    """The error for an unknown backend lists the known ones; no engine is queried and no folder is created."""
    assert (
        refused_choice(layout, wanted, starting=starting) == f"BACKEND={wanted!r}: expected one of auto, docker, local"
    )
    assert docker.calls == []
    assert not layout.var.exists()


@pytest.mark.parametrize("wanted", ["", "auto", "local", "docker"])
@pytest.mark.parametrize("running", ["local", "docker"])
def test_running_stack_keeps_its_backend(
    layout: Layout, docker: FakeDocker, running: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A running stack keeps its backend without querying an engine, and another BACKEND is refused."""
    save(layout, replace(Stack(), backend=running))
    for starting in (True, False):
        if wanted in ("", "auto", running):
            assert choose(layout, options(BACKEND=wanted), starting=starting).name == running
        else:
            error = refused_choice(layout, wanted, starting=starting)
            assert error == f"BACKEND={wanted}: the running stack uses {running}; stop it first with: make down"
    assert docker.calls == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("starting", [True, False])
def test_local_backend_queries_no_engine(
    layout: Layout, docker: FakeDocker, starting: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """BACKEND=local chooses local processes without querying an engine."""
    backend = choose(layout, options(BACKEND="local"), starting=starting)
    assert isinstance(backend, LocalBackend)
    assert backend.name == "local"
    assert docker.calls == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("wanted", ["docker", "auto", ""])
def test_docker_is_chosen_when_an_engine_answers(
    layout: Layout, engine: FakeDocker, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """If an engine answers and has the base images, the stack runs in containers, and the reason is printed."""
    backend = choose(layout, options(BACKEND=wanted), starting=True)
    assert isinstance(backend, DockerBackend)
    assert backend.name == "docker"
    assert capsys.readouterr().out == "backend: docker, since engine 29.1.0 answers\n"
    assert engine.ran("pull") == []


@pytest.mark.usefixtures("no_docker")
def test_backend_docker_without_the_command_is_refused(layout: Layout) -> None:
    """BACKEND=docker without a `docker` command is refused with that reason."""
    assert refused_choice(layout, "docker", starting=True) == "BACKEND=docker: there is no docker command"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("version",), "no Docker engine answers"),
        (("compose", "version"), "docker has no compose plugin"),
        (("buildx", "version"), "docker has no buildx plugin"),
    ],
)
def test_missing_engine_falls_back_to_local(
    layout: Layout, engine: FakeDocker, command: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an engine, BACKEND=docker is refused, and otherwise the stack runs locally; both give the reason."""
    engine.answer(*command, err="Cannot connect\n", status=1)
    assert refused_choice(layout, "docker", starting=True) == f"BACKEND=docker: {reason}"
    assert capsys.readouterr().out == ""
    assert choose(layout, options(), starting=True).name == "local"
    assert capsys.readouterr().out == f"backend: local, since {reason}\n"


@pytest.mark.usefixtures("no_docker")
def test_missing_command_falls_back_to_local(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine without a `docker` command runs the stack locally and prints the reason."""
    assert choose(layout, options(BACKEND="auto"), starting=True).name == "local"
    assert capsys.readouterr().out == "backend: local, since there is no docker command\n"


def test_unpullable_base_images_fall_back_to_local(
    layout: Layout, engine: FakeDocker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without base images, BACKEND=docker is refused, and otherwise the stack runs locally."""
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="no such host\n", status=1)
    assert refused_choice(layout, "docker", starting=True).endswith(f"cannot be pulled: {PULL_FAILED}")
    assert choose(layout, options(), starting=True).name == "local"
    output = capsys.readouterr().out
    assert output.startswith("backend: local, since python:")
    assert output.endswith(f"cannot be pulled: {PULL_FAILED}\n")


def test_published_images_need_no_base_images(layout: Layout, engine: FakeDocker) -> None:
    """If IMAGE names published images, no base images are checked or pulled."""
    engine.answer("image", "inspect", status=1)
    assert choose(layout, options(IMAGE="registry.example.com/forkcast"), starting=True).name == "docker"
    assert engine.ran("image") == engine.ran("pull") == []


@pytest.mark.parametrize(
    ("folders", "name"),
    [([], "local"), ([str(ROOT)], "docker"), (["/elsewhere"], "local"), (["/elsewhere", str(ROOT)], "docker")],
)
def test_reading_command_finds_containers_of_this_checkout(
    layout: Layout, engine: FakeDocker, folders: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that starts nothing finds containers of this checkout without a record, and prints nothing."""
    engine.containers(*(container(number=number, folder=folder) for number, folder in enumerate(folders)))
    assert choose(layout, options(), starting=False).name == name
    assert engine.ran("pull") == []
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_docker")
def test_reading_command_without_an_engine_is_local(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an engine, a command that starts nothing uses the local backend and prints nothing."""
    assert choose(layout, options(), starting=False).name == "local"
    assert choose(layout, options(BACKEND="docker"), starting=False).name == "docker"
    assert capsys.readouterr().out == ""


def test_containers_are_searched_under_the_project_name(layout: Layout, engine: FakeDocker) -> None:
    """Containers are searched under the name in COMPOSE_PROJECT_NAME."""
    choose(layout, options(COMPOSE_PROJECT_NAME="other"), starting=False)
    composed = [call for call in engine.calls if "config" in call.arguments]
    assert {call.environ.get("COMPOSE_PROJECT_NAME") for call in composed} == {"other"}


@pytest.mark.usefixtures("docker")
def test_damaged_record_is_reported_without_guessing_backend(layout: Layout) -> None:
    """A damaged record is reported, and no backend is guessed."""
    layout.make()
    layout.state.write_text("{")
    with pytest.raises(CommandError, match=r"is damaged: run make down, then make up$"):
        choose(layout, options(), starting=True)


@pytest.fixture
def without_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes `make` end with a status, on a machine without the local backend's packages."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    def fail_make(status: int) -> None:
        (tmp_path / "make").write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/made\npwd >> {tmp_path}/made\nexit {status}\n'
        )
        (tmp_path / "make").chmod(0o755)

    return fail_make


def test_failed_package_installation_is_one_line(
    layout: Layout, tmp_path: Path, without_packages: Callable[[int], None]
) -> None:
    """If the packages of the local backend cannot be installed, one line follows the installer's output."""
    without_packages(2)
    error = refused_choice(layout, "local", starting=True)
    assert error == "the packages of deploy/requirements/local.txt could not be installed; the reason is above"
    assert (tmp_path / "made").read_text() == f"-s .venv/bin/.runtime\n{ROOT}\n"


def test_reading_command_installs_nothing_with_an_engine(
    layout: Layout,
    engine: FakeDocker,
    without_packages: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With an engine, a command that starts nothing installs no packages: no local stack can run without them."""
    without_packages(2)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{engine.folder}{os.pathsep}{path}")
    for wanted in ("", "auto", "docker"):
        assert choose(layout, options(BACKEND=wanted), starting=False).name == "docker"
    assert not (tmp_path / "made").exists()
    monkeypatch.setenv("PATH", path)
    assert refused_choice(layout, "auto", starting=False).startswith("the packages of deploy/requirements/local.txt")


def test_clean_without_used_project_queries_no_engine(layout: Layout, docker: FakeDocker) -> None:
    """A checkout that used no Compose project has none to delete, and no engine is queried."""
    assert used_docker_backend(layout, options(COMPOSE_PROJECT_NAME="other")) is None
    assert docker.calls == []


@pytest.mark.parametrize("environ", [{}, {"COMPOSE_PROJECT_NAME": "other"}])
def test_clean_deletes_the_recorded_project(layout: Layout, engine: FakeDocker, environ: dict[str, str]) -> None:
    """The project to delete is the one that was used, whatever COMPOSE_PROJECT_NAME is now."""
    layout.make()
    layout.project.write_text("mine\n")
    engine.answer("compose", "down")
    backend = used_docker_backend(layout, options(**environ))
    assert isinstance(backend, DockerBackend)
    backend.delete()
    (down,) = [call for call in engine.calls if "down" in call.arguments]
    assert down.environ["COMPOSE_PROJECT_NAME"] == "mine"


@pytest.mark.usefixtures("no_docker")
def test_clean_without_engine_names_the_project(layout: Layout) -> None:
    """Without an engine, the error names the project whose volumes cannot be deleted."""
    layout.make()
    layout.project.write_text("mine\n")
    with pytest.raises(CommandError) as caught:
        used_docker_backend(layout, options())
    assert str(caught.value) == (
        "the volumes of the Compose project 'mine' cannot be deleted: there is no docker command"
    )


def test_command_starts_again_after_installing_packages(
    layout: Layout, without_packages: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the packages are installed, the command starts again with the same arguments."""
    without_packages(0)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "deploy.scaling", "load"])
    started: list[list[str]] = []

    def start(_program: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise SystemExit  # The real call would not return.

    monkeypatch.setattr(os, "execv", start)
    with pytest.raises(SystemExit):
        choose(layout, options(BACKEND="local"), starting=True)
    assert started == [["python", "-m", "deploy.scaling", "load"]]


def test_both_backends_implement_every_verb() -> None:
    """The Docker backend and the local backend implement every verb of the base class."""
    verbs = {name for name, member in vars(Backend).items() if not name.startswith("_") and callable(member)}
    assert verbs == {
        "up", "scale", "resources", "apply", "restart", "monitoring", "promote", "train", "compile", "record",
        "status", "stats", "logs", "down",
    }  # fmt: skip
    for backend in (DockerBackend, LocalBackend):
        assert verbs <= set(dir(backend))
    assert {DockerBackend.name, LocalBackend.name} == set(MAX_REPLICAS)
    assert DEFAULT.backend == DockerBackend.name


def test_command_line_needs_only_its_own_packages() -> None:
    """The command line needs only the packages of deploy/requirements/cli.txt."""
    script = (
        "import sys, deploy.cli\n"
        "heavy = {'supervisor', 'psutil', 'mlflow', 'numpy', 'sklearn', 'gunicorn', 'starlette', 'locust'}\n"
        "print(heavy & {name.split('.')[0] for name in sys.modules})"
    )
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout == "set()\n"


def test_local_processes_need_linux(layout: Layout, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local backend is refused on macOS without querying an engine; the error says what works there."""
    macos.pretend(monkeypatch)
    error = refused_choice(layout, "local", starting=True)
    assert error == "local processes need Linux; elsewhere start a Docker engine, such as Docker Desktop"
    assert docker.calls == []


def test_macos_without_an_engine_is_refused_with_the_reason(
    layout: Layout, engine: FakeDocker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason why containers cannot run is the error on macOS, where no other backend can run."""
    macos.pretend(monkeypatch)
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="no such host\n", status=1)
    assert refused_choice(layout, "", starting=True).endswith(f"{PULL_FAILED}; without Docker a stack needs Linux")
    engine.answer("version", err="no daemon\n", status=1)
    error = "no Docker engine answers; without Docker a stack needs Linux"
    assert refused_choice(layout, "auto", starting=True) == error
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("status", [0, 1])
def test_reading_command_on_macos_uses_containers(
    layout: Layout, engine: FakeDocker, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that starts nothing uses the Docker backend on macOS, also without an engine or containers."""
    macos.pretend(monkeypatch)
    engine.answer("version", status=status)
    assert choose(layout, options(), starting=False).name == "docker"
