"""The command line behind `make`."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import cli
from deploy.stack import interrupt
from deploy.stack.paths import ROOT, Layout
from tests.support.fake_docker import FakeDocker, container

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A user's environment with a stack's folder of its own."""
    kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "VAR_DIR": str(tmp_path / "var"),
        "BACKEND": "local",
    }


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """The command, as `make` starts it, with no terminal."""

    def one(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=ROOT, env=environ | variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return one


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An .env of a checkout of its own, for the command run in this process."""
    monkeypatch.setenv("ENV_FILE", str(tmp_path / ".env"))
    monkeypatch.chdir(tmp_path)  # the command itself changes into the stack's folder
    for name in ("BACKEND", "N", "YES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAR_DIR", str(tmp_path / "var"))
    handlers = {number: signal.getsignal(number) for number in interrupt._SIGNALS}
    yield tmp_path / ".env"
    for number, handler in handlers.items():
        signal.signal(number, handler)  # the command sets its own


@pytest.mark.parametrize("arguments", [[], ["explode"], ["_backend"], ["up", "N=2"], ["--help"]])
def test_invalid_arguments_print_usage_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Anything but one verb gets the list of verbs on standard error, and status 2."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"usage: python -m deploy.cli {{{'|'.join(cli.VERBS)}}}\n"


def test_usage_of_the_real_command(run: Run) -> None:
    """The process ends with that status, and makes no folder."""
    ran = run("explode")
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: ")


@pytest.mark.parametrize("backend", ["kubernetes", "LOCAL", "podman"])
def test_unknown_backend_is_refused_in_one_line(backend: str, run: Run, tmp_path: Path) -> None:
    """A backend that there is not is refused with one line, and the refusal is all that is left."""
    ran = run("up", BACKEND=backend)
    assert ran.returncode == 1
    assert ran.stderr == f"error: BACKEND={backend!r}: expected one of auto, docker, local\n"
    assert not (tmp_path / "var/stack.json").exists()


@pytest.mark.parametrize("backend", ["", "auto", "local", "docker"])
@pytest.mark.parametrize("verb", ["scale", "resources", "restart", "status", "stats"])
def test_verbs_without_a_running_stack_suggest_make_up(verb: str, backend: str, docker: FakeDocker, run: Run) -> None:
    """Where nothing runs, those who look at it or change it say how to start it, whatever the backend is."""
    docker.start_engine()
    ran = run(verb, BACKEND=backend)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: nothing is running here; start it with: make up\n"


@pytest.mark.parametrize(
    ("variable", "value"), [("N", "0"), ("HTTP_PORT", "http"), ("LOCUST_PORT", "-1"), ("WEB_CONCURRENCY", "many")]
)
def test_invalid_value_is_one_line_with_expectation(variable: str, value: str, run: Run) -> None:
    """A bad value stops the start with one line: the name, the value and what was expected."""
    ran = run("up", **{variable: value})
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {variable}={value!r}: expected a whole number from ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("version", [{}, {"VERSION": ""}])
def test_promote_without_a_version(version: dict[str, str], run: Run, docker: FakeDocker) -> None:
    """A promotion to nothing says what is missing, and asks neither an engine nor a registry."""
    ran = run("promote", **version)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: VERSION is missing: make promote VERSION=2 (make rollback goes back)\n"
    assert docker.calls == []


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_promotion_that_is_refused_is_remembered(verb: str, run: Run, tmp_path: Path) -> None:
    """Whoever looks at the stack later is told that a promotion was refused, and why."""
    refused = run(verb, VERSION="2", MODEL_URI="models:/covertype/1")
    assert refused.returncode == 1
    reason = refused.stderr.removeprefix("error: ")
    assert reason.startswith("MODEL_URI='models:/covertype/1' names no alias that could be moved")
    assert (tmp_path / "var/refusal.txt").read_text() == f"the last make {verb} was refused: {reason}"


def test_down_where_nothing_runs(run: Run) -> None:
    """Stopping what does not run is no error."""
    ran = run("down")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "down\n", "")


def test_one_command_at_a_time(environ: dict[str, str], tmp_path: Path) -> None:
    """A command that changes a stack waits for the one before it, and says so."""
    (tmp_path / "var").mkdir()
    with (tmp_path / "var/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "deploy.cli", "down"]
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "another command is at work on this stack: waiting for it\n"
            assert waiting.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.communicate(timeout=60)[0] == "down\n"
    assert waiting.returncode == 0


def test_settings_file_is_read(settings_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What .env says counts where the environment says nothing."""
    settings_file.write_text("# a comment\nBACKEND=kubernetes\n")
    assert cli.main(["status"]) == 1
    assert "BACKEND='kubernetes'" in capsys.readouterr().err


def test_environment_wins_over_the_file(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the environment says goes over .env, and an empty line of .env says nothing."""
    settings_file.write_text("BACKEND=kubernetes\nVAR_DIR=elsewhere\nN=\n")
    monkeypatch.setenv("BACKEND", "local")
    assert cli.main(["status"]) == 1
    assert "nothing is running here" in capsys.readouterr().err
    assert sorted(path.name for path in settings_file.parent.iterdir()) == [".env", "var"]


@pytest.mark.parametrize("verb", ["status", "stats", "logs"])
def test_looking_does_not_mind_wrong_settings(verb: str, run: Run) -> None:
    """What looks at a stack works, or says what it would, whatever is wrong with settings that it does not need."""
    assert "HTTP_PORT" not in run(verb, HTTP_PORT="http", CPUS="x", KEEP_ALIVE="abc").stderr
    assert run("down", HTTP_PORT="http").returncode == 0


def test_logs_of_an_unknown_service(run: Run) -> None:
    """S names the service; an unknown one is an error of one line."""
    ran = run("logs", S="gunicorn")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: S='gunicorn': expected one of ")


def test_refusal_is_remembered(run: Run, tmp_path: Path) -> None:
    """Why a change was refused is told by those that look at the stack later, before anything else."""
    assert run("up", N="0").returncode == 1
    told = "the last make up was refused: N='0': expected a whole number from 1 to 16\n"
    assert (tmp_path / "var/refusal.txt").read_text() == told
    for verb in ("status", "logs"):
        ran = run(verb)
        assert (ran.returncode, ran.stdout) == (1, told)
        assert ran.stderr.count("\n") == 1


def test_last_refusal_counts(run: Run) -> None:
    """One refusal takes the place of the one before."""
    assert run("up", WEB_CONCURRENCY="0").returncode == 1
    assert run("scale", N="2").returncode == 1
    assert run("status").stdout == (
        "the last make scale was refused: nothing is running here; start it with: make up\n"
    )


def test_refusal_is_forgotten(run: Run, tmp_path: Path) -> None:
    """A change that works ends the story of the one that did not."""
    assert run("up", N="0").returncode == 1
    assert run("down").returncode == 0
    assert not (tmp_path / "var/refusal.txt").exists()
    assert run("status").stdout == ""


def test_looking_is_no_change(run: Run, tmp_path: Path) -> None:
    """What looks at a stack, or trains, neither leaves a refusal nor takes one away."""
    assert run("logs", S="gunicorn").returncode == 1
    assert run("status").returncode == 1
    assert not (tmp_path / "var/refusal.txt").exists()
    assert run("up", N="0").returncode == 1
    for verb in ("status", "logs", "stats"):
        assert run(verb).returncode == 1
    assert (tmp_path / "var/refusal.txt").exists()


def test_refusal_is_deleted_with_the_rest(run: Run, tmp_path: Path) -> None:
    """A refusal is part of what `clean` deletes, and a `clean` that was not confirmed is one itself."""
    assert run("clean").returncode == 1
    assert run("status").stdout == (
        "the last make clean was refused: nothing was deleted; make clean YES=1 does not ask\n"
    )
    assert run("clean", YES="1").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_refusal_of_an_engine(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """What the engine said is remembered, too."""
    docker.answer("version", err="Cannot connect to the Docker daemon\n", status=1)
    ran = run("up", BACKEND="docker")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: BACKEND=docker: no Docker engine answers\n"
    assert (tmp_path / "var/refusal.txt").read_text() == (
        "the last make up was refused: BACKEND=docker: no Docker engine answers\n"
    )


def test_settings_file_reaches_containers(
    docker: FakeDocker, settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What .env says counts for containers as well: the verbs fill in Compose's variables from it."""
    docker.start_engine()
    docker.answer("compose", "build")
    docker.answer("image", "inspect", "{{.Size}}", out="0\n")
    settings_file.write_text("TAG=v7\nCOMPOSE_PROJECT_NAME=other\n")
    assert cli.main(["build"]) == 0
    (built,) = [call for call in docker.calls if "build" in call.arguments]
    assert (built.environ["TAG"], built.environ["COMPOSE_PROJECT_NAME"]) == ("v7", "other")
    assert capsys.readouterr().err == ""


def test_build_prints_image_sizes_on_any_backend(docker: FakeDocker, run: Run) -> None:
    """`build` builds the images whatever backend runs the stack, and tells the size of each."""
    docker.start_engine()
    docker.answer("compose", "build")
    docker.answer("image", "inspect", "{{.Size}}", out="25000000\n")
    ran = run("build", BACKEND="local")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split("  ")[1] for line in ran.stdout.splitlines()] == ["25 MB"] * 4
    assert len(docker.ran("compose", "build")) == 1


def test_failed_build_is_reported_by_its_last_line(docker: FakeDocker, run: Run) -> None:
    """A build that fails ends with one line: the builder's last."""
    docker.start_engine()
    docker.answer("compose", "build", err="#1 ERROR\nfailed to solve\n", status=1)
    ran = run("build")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: docker compose --env-file: failed to solve\n"


@pytest.mark.parametrize("missing", ["IMAGE", "TAG"])
def test_publish_without_a_name(docker: FakeDocker, run: Run, missing: str) -> None:
    """`publish` says which name it lacks, and builds nothing."""
    docker.start_engine()
    ran = run("publish", **({"IMAGE": "registry.example.com/forkcast", "TAG": "v1"} | {missing: ""}))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {missing} is missing: make publish IMAGE=")
    assert docker.ran("buildx") == []


def test_publish_pushes_both_platforms_as_named(docker: FakeDocker, run: Run) -> None:
    """`publish` builds for both platforms and pushes under the names that were given."""
    docker.start_engine()
    docker.answer("buildx", "bake")
    ran = run("publish", IMAGE="registry.example.com/forkcast", TAG="v1", BUILDER="mine")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    call = docker.calls[-1]
    assert {"bake", "--push", "mine", "*.platform=linux/amd64,linux/arm64"} < set(call.arguments)
    assert (call.environ["IMAGE"], call.environ["TAG"]) == ("registry.example.com/forkcast", "v1")


def test_down_stops_containers_started_by_compose(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """`down` of containers that Compose itself started stops those of this checkout."""
    docker.start_engine()
    docker.answer("compose", "down")
    docker.containers(container(folder=str(ROOT)))
    ran = run("down", BACKEND="")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "down\n", "")
    assert len(docker.ran("compose", "down")) == 1
    assert Layout(tmp_path / "var").refusal.exists() is False


def test_down_of_a_damaged_stack(run: Run, tmp_path: Path) -> None:
    """A record that cannot be read keeps a stack from being looked at, and not from being stopped."""
    (tmp_path / "var").mkdir()
    record = tmp_path / "var/stack.json"
    record.write_text('{"backend": "kubernetes"}')
    ran = run("status", BACKEND="")
    assert (ran.returncode, ran.stderr) == (1, f"error: {record} is damaged: make down, then make up\n")
    ran = run("down")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "down\n", "")
    assert not record.exists()


def test_clean_of_a_damaged_stack(run: Run, tmp_path: Path) -> None:
    """Nor does it keep the stack's data from being deleted."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var/stack.json").write_text("{")
    assert run("clean", YES="1").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_clean_deletes_volumes(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """The volumes of the Compose project that the checkout has used are deleted, also after its containers went."""
    docker.start_engine()
    docker.answer("compose", "down")
    (tmp_path / "var").mkdir()
    (tmp_path / "var/compose-project").write_text("mine\n")
    ran = run("clean", YES="1", COMPOSE_PROJECT_NAME="other")
    assert (ran.returncode, ran.stderr) == (0, "")
    (down,) = [call for call in docker.calls if "down" in call.arguments]
    assert "--volumes" in down.arguments
    assert down.environ["COMPOSE_PROJECT_NAME"] == "mine"
    assert not (tmp_path / "var").exists()


def test_clean_without_the_engine(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """Where those volumes cannot be deleted, nothing is, and the project is not forgotten."""
    docker.answer("version", err="Cannot connect\n", status=1)
    (tmp_path / "var").mkdir()
    for name in ("compose-project", "mlflow.db"):
        (tmp_path / "var" / name).write_text("mine\n")
    ran = run("clean", YES="1")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        "error: the volumes of the Compose project 'mine' cannot be deleted: no Docker engine answers\n"
    )
    assert {"compose-project", "mlflow.db"} < {path.name for path in (tmp_path / "var").iterdir()}


def test_clean_without_project_asks_no_engine(docker: FakeDocker, run: Run) -> None:
    """A checkout that has used no containers asks no engine."""
    assert run("clean", YES="1").returncode == 0
    assert docker.calls == []


def test_clean_without_confirmation_deletes_nothing(run: Run, tmp_path: Path) -> None:
    """Without a terminal to ask on, and without YES=1, nothing is deleted."""
    kept = tmp_path / "var/mlflow.db"
    kept.parent.mkdir()
    kept.touch()
    refused = "nothing was deleted; make clean YES=1 does not ask"
    for variables in ({}, {"YES": "0"}, {"YES": "yes"}):
        ran = run("clean", **variables)
        assert (ran.returncode, ran.stderr) == (1, f"error: {refused}\n")
        assert kept.exists()


def test_clean_with_yes_deletes_only_the_stack(run: Run, tmp_path: Path) -> None:
    """With YES=1 the stack's folder is deleted, and nothing beside it."""
    (tmp_path / "var").mkdir()
    (tmp_path / "beside").touch()
    ran = run("clean", YES="1")
    assert (ran.returncode, ran.stdout) == (0, f"deleted what the stack kept in {tmp_path / 'var'}\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "beside"]


def test_clean_spares_what_is_not_ours(run: Run, tmp_path: Path) -> None:
    """A folder that VAR_DIR names by mistake loses nothing that a stack did not write."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var/thesis.txt").touch()
    assert run("clean", YES="1").returncode == 0
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("Y \n", True), ("n\n", False), ("\n", False)])
def test_clean_at_a_terminal(answer: str, deleted: bool, environ: dict[str, str], tmp_path: Path) -> None:
    """At a terminal only a yes deletes."""
    (tmp_path / "var").mkdir()
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        command = [sys.executable, "-m", "deploy.cli", "clean"]
        ran = subprocess.run(
            command, cwd=ROOT, env=environ, stdin=theirs, capture_output=True, text=True, check=False, timeout=60
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == (0 if deleted else 1), ran.stderr
    assert f"delete {tmp_path / 'var'}, with its registry and all trained models? [y/N]" in ran.stdout + ran.stderr
    assert (tmp_path / "var").exists() is not deleted


def test_make_alone_lists_every_verb(environ: dict[str, str]) -> None:
    """`make` alone prints how each verb is called, and the command line's own text of what it does."""
    ran = subprocess.run(["make"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60)
    lines = iter(ran.stdout.splitlines())
    listed = {usage.split()[1]: text.strip() for usage, text in zip(lines, lines, strict=True)}
    for verb, method in cli.VERBS.items():
        assert listed[verb] == (method.__doc__ or "").splitlines()[0]


def test_every_verb_is_a_phony_target(environ: dict[str, str]) -> None:
    """Make runs each verb whether or not there is a file of its name, with exactly its command."""
    makefile = (ROOT / "Makefile").read_text()
    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE))
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    assert sorted(phony.split()) == sorted(targets)
    assert set(cli.VERBS) <= set(targets)
    for verb in cli.VERBS:
        # Make is told that the environment is there and old, so that it shows the verb alone.
        ran = subprocess.run(
            ["make", "-n", "-o", ".venv/bin/.cli", verb],
            cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert ran.stdout == f".venv/bin/python -m deploy.cli {verb}\n"
