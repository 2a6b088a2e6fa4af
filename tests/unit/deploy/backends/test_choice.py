"""Which backend a command works on. The `docker` command is a stand-in."""

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
    """A backend that there is not is named with those that there are; no engine is asked, and no folder made."""
    assert (
        refused_choice(layout, wanted, starting=starting) == f"BACKEND={wanted!r}: expected one of auto, docker, local"
    )
    assert docker.calls == []
    assert not layout.var.exists()


@pytest.mark.parametrize("wanted", ["", "auto", "local", "docker"])
@pytest.mark.parametrize("up", ["local", "docker"])
def test_stack_that_is_up_decides(
    layout: Layout, docker: FakeDocker, up: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stack that is up keeps its backend, silently and whether or not an engine answers; another one is refused."""
    save(layout, replace(Stack(), backend=up))
    for starting in (True, False):
        if wanted in ("", "auto", up):
            assert choose(layout, options(BACKEND=wanted), starting=starting).name == up
        else:
            told = refused_choice(layout, wanted, starting=starting)
            assert told == f"BACKEND={wanted}: the running stack uses {up}; stop it first with: make down"
    assert docker.calls == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("starting", [True, False])
def test_local_backend_asks_no_engine(
    layout: Layout, docker: FakeDocker, starting: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The local backend, where it is asked for, asks no engine."""
    found = choose(layout, options(BACKEND="local"), starting=starting)
    assert isinstance(found, LocalBackend)
    assert found.name == "local"
    assert docker.calls == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("wanted", ["docker", "auto", ""])
def test_docker_is_chosen_when_an_engine_answers(
    layout: Layout, engine: FakeDocker, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an engine answers and has the base images, the stack runs in containers, and that is told with why."""
    found = choose(layout, options(BACKEND=wanted), starting=True)
    assert isinstance(found, DockerBackend)
    assert found.name == "docker"
    assert capsys.readouterr().out == "backend: docker, since engine 29.1.0 answers\n"
    assert engine.ran("pull") == []


@pytest.mark.usefixtures("no_docker")
def test_docker_without_the_command(layout: Layout) -> None:
    """Containers that are asked for, where there is no `docker`, are refused with that reason."""
    assert refused_choice(layout, "docker", starting=True) == "BACKEND=docker: there is no docker command"


@pytest.mark.parametrize(
    ("command", "why_not"),
    [
        (("version",), "no Docker engine answers"),
        (("compose", "version"), "docker has no compose plugin"),
        (("buildx", "version"), "docker has no buildx plugin"),
    ],
)
def test_missing_engine_falls_back_to_local(
    layout: Layout, engine: FakeDocker, command: tuple[str, ...], why_not: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an engine, containers that are asked for are refused, else the stack runs locally: both say why."""
    engine.answer(*command, err="Cannot connect\n", status=1)
    assert refused_choice(layout, "docker", starting=True) == f"BACKEND=docker: {why_not}"
    assert capsys.readouterr().out == ""
    assert choose(layout, options(), starting=True).name == "local"
    assert capsys.readouterr().out == f"backend: local, since {why_not}\n"


@pytest.mark.usefixtures("no_docker")
def test_local_without_the_command(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine without `docker` runs the stack locally, and says why."""
    assert choose(layout, options(BACKEND="auto"), starting=True).name == "local"
    assert capsys.readouterr().out == "backend: local, since there is no docker command\n"


def test_unpullable_base_images_fall_back_to_local(
    layout: Layout, engine: FakeDocker, capsys: pytest.CaptureFixture[str]
) -> None:
    """So it is with an engine that cannot pull what the images are built on."""
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="no such host\n", status=1)
    assert refused_choice(layout, "docker", starting=True).endswith(f"cannot be pulled: {PULL_FAILED}")
    assert choose(layout, options(), starting=True).name == "local"
    told = capsys.readouterr().out
    assert told.startswith("backend: local, since python:")
    assert told.endswith(f"cannot be pulled: {PULL_FAILED}\n")


def test_published_images_need_no_bases(layout: Layout, engine: FakeDocker) -> None:
    """Where IMAGE names published images, nothing is asked of what they were built on."""
    engine.answer("image", "inspect", status=1)
    assert choose(layout, options(IMAGE="registry.example.com/forkcast"), starting=True).name == "docker"
    assert engine.ran("image") == engine.ran("pull") == []


@pytest.mark.parametrize(
    ("found", "name"),
    [([], "local"), ([str(ROOT)], "docker"), (["/elsewhere"], "local"), (["/elsewhere", str(ROOT)], "docker")],
)
def test_looking_where_nothing_is_up(
    layout: Layout, engine: FakeDocker, found: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that starts nothing finds containers of this checkout that nobody asked `make` for; it says nothing."""
    engine.containers(*(container(number=number, folder=folder) for number, folder in enumerate(found)))
    assert choose(layout, options(), starting=False).name == name
    assert engine.ran("pull") == []
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_docker")
def test_looking_without_an_engine(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that starts nothing is the local backend's where there is no engine, and says nothing."""
    assert choose(layout, options(), starting=False).name == "local"
    assert choose(layout, options(BACKEND="docker"), starting=False).name == "docker"
    assert capsys.readouterr().out == ""


def test_project_of_another_name(layout: Layout, engine: FakeDocker) -> None:
    """Containers are looked for under the name that COMPOSE_PROJECT_NAME gives."""
    choose(layout, options(COMPOSE_PROJECT_NAME="other"), starting=False)
    composed = [call for call in engine.calls if "config" in call.arguments]
    assert {call.environ.get("COMPOSE_PROJECT_NAME") for call in composed} == {"other"}


@pytest.mark.usefixtures("docker")
def test_damaged_record_is_reported_without_guessing_backend(layout: Layout) -> None:
    """A stack whose record is damaged is told, and no backend is guessed."""
    layout.make()
    layout.state.write_text("{")
    with pytest.raises(CommandError, match=r"is damaged: run make down, then make up$"):
        choose(layout, options(), starting=True)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A machine that lacks the local backend's packages, and whose `make` ends with a status."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    def one(status: int) -> None:
        (tmp_path / "make").write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/made\npwd >> {tmp_path}/made\nexit {status}\n'
        )
        (tmp_path / "make").chmod(0o755)

    return one


def test_failed_package_installation_is_one_line(layout: Layout, tmp_path: Path, bare: Callable[[int], None]) -> None:
    """Packages of the local backend that cannot be installed are told in one line after the installer's own."""
    bare(2)
    told = refused_choice(layout, "local", starting=True)
    assert told == "the packages of deploy/requirements/local.txt could not be installed; the reason is above"
    assert (tmp_path / "made").read_text() == f"-s .venv/bin/.runtime\n{ROOT}\n"


def test_looking_without_the_packages(
    layout: Layout, engine: FakeDocker, bare: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A command that starts nothing installs nothing where an engine answers: no local stack can run without them."""
    bare(2)
    without = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{engine.folder}{os.pathsep}{without}")
    for wanted in ("", "auto", "docker"):
        assert choose(layout, options(BACKEND=wanted), starting=False).name == "docker"
    assert not (tmp_path / "made").exists()
    monkeypatch.setenv("PATH", without)
    assert refused_choice(layout, "auto", starting=False).startswith("the packages of deploy/requirements/local.txt")


def test_clean_without_used_project_asks_no_engine(layout: Layout, docker: FakeDocker) -> None:
    """A checkout that has used no Compose project has none to delete, and no engine is asked."""
    assert used_docker_backend(layout, options(COMPOSE_PROJECT_NAME="other")) is None
    assert docker.calls == []


@pytest.mark.parametrize("environ", [{}, {"COMPOSE_PROJECT_NAME": "other"}])
def test_clean_deletes_the_recorded_project(layout: Layout, engine: FakeDocker, environ: dict[str, str]) -> None:
    """The project to delete is the one that was used, whatever COMPOSE_PROJECT_NAME says now."""
    layout.make()
    layout.project.write_text("mine\n")
    engine.answer("compose", "down")
    found = used_docker_backend(layout, options(**environ))
    assert isinstance(found, DockerBackend)
    found.delete()
    (down,) = [call for call in engine.calls if "down" in call.arguments]
    assert down.environ["COMPOSE_PROJECT_NAME"] == "mine"


@pytest.mark.usefixtures("no_docker")
def test_clean_without_engine_names_the_project(layout: Layout) -> None:
    """Where no engine answers, the volumes that cannot be deleted are told."""
    layout.make()
    layout.project.write_text("mine\n")
    with pytest.raises(CommandError) as caught:
        used_docker_backend(layout, options())
    assert str(caught.value) == (
        "the volumes of the Compose project 'mine' cannot be deleted: there is no docker command"
    )


def test_packages_are_installed(layout: Layout, bare: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are there, the command starts anew, as it was called."""
    bare(0)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "deploy.scaling", "load"])
    started: list[list[str]] = []

    def start(_program: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise SystemExit  # as a process that is another now

    monkeypatch.setattr(os, "execv", start)
    with pytest.raises(SystemExit):
        choose(layout, options(BACKEND="local"), starting=True)
    assert started == [["python", "-m", "deploy.scaling", "load"]]


def test_both_backends_implement_every_verb() -> None:
    """Both backends have every verb that a backend is asked for."""
    verbs = {name for name, one in vars(Backend).items() if not name.startswith("_") and callable(one)}
    assert verbs == {
        "up", "scale", "resources", "apply", "restart", "monitoring", "promote", "train", "compile", "record",
        "status", "stats", "logs", "down",
    }  # fmt: skip
    for one in (DockerBackend, LocalBackend):
        assert verbs <= set(dir(one))
    assert {DockerBackend.name, LocalBackend.name} == set(MAX_REPLICAS)
    assert DEFAULT.backend == DockerBackend.name


def test_containers_need_none_of_the_packages() -> None:
    """A machine that runs containers needs nothing but what is in deploy/requirements/cli.txt."""
    script = (
        "import sys, deploy.cli\n"
        "heavy = {'supervisor', 'psutil', 'mlflow', 'numpy', 'sklearn', 'gunicorn', 'starlette', 'locust'}\n"
        "print(heavy & {name.split('.')[0] for name in sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_local_processes_need_linux(layout: Layout, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the local backend is refused with one line that names what works there, and no engine is asked."""
    macos.pretend(monkeypatch)
    told = refused_choice(layout, "local", starting=True)
    assert told == "local processes need Linux; elsewhere start a Docker engine, such as Docker Desktop"
    assert docker.calls == []


def test_macos_without_an_engine_says_why(
    layout: Layout, engine: FakeDocker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On macOS, what keeps containers from starting is the reason of the refusal: nothing else could run the stack."""
    macos.pretend(monkeypatch)
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="no such host\n", status=1)
    assert refused_choice(layout, "", starting=True).endswith(f"{PULL_FAILED}; without Docker a stack needs Linux")
    engine.answer("version", err="no daemon\n", status=1)
    told = "no Docker engine answers; without Docker a stack needs Linux"
    assert refused_choice(layout, "auto", starting=True) == told
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("status", [0, 1])
def test_looking_on_macos_is_looking_at_containers(
    layout: Layout, engine: FakeDocker, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS a command that starts nothing works on containers, also where no engine answers and none are there."""
    macos.pretend(monkeypatch)
    engine.answer("version", status=status)
    assert choose(layout, options(), starting=False).name == "docker"
