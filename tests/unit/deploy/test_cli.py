"""Tests of the verbs as `make` runs them: arguments, errors, refusals, `down`, `clean` and the Makefile."""

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
    """The environment of a user, with a new folder for the stack."""
    inherited = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in inherited if name in os.environ} | {
        "VAR_DIR": str(tmp_path / "var"),
        "BACKEND": "local",
    }


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Run the command as `make` starts it, without a terminal."""

    def run_verb(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=ROOT, env=environ | variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run_verb


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of an empty .env that a command in this process reads."""
    monkeypatch.setenv("ENV_FILE", str(tmp_path / ".env"))
    monkeypatch.chdir(tmp_path)  # the command changes into the stack's folder
    for name in ("BACKEND", "N", "YES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAR_DIR", str(tmp_path / "var"))
    handlers = {number: signal.getsignal(number) for number in interrupt._SIGNALS}
    yield tmp_path / ".env"
    for number, handler in handlers.items():
        signal.signal(number, handler)  # the command has replaced them


@pytest.mark.parametrize("arguments", [[], ["explode"], ["_backend"], ["up", "N=2"], ["--help"]])
def test_invalid_arguments_print_usage_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments other than one verb print the list of verbs on standard error and exit with status 2."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"usage: python -m deploy.cli {{{'|'.join(cli.VERBS)}}}\n"


def test_process_exits_with_status_2_after_usage(run: Run) -> None:
    """The process exits with status 2 and prints its usage."""
    ran = run("explode")
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: ")


@pytest.mark.parametrize("backend", ["kubernetes", "LOCAL", "podman"])
def test_unknown_backend_is_an_error_of_one_line(backend: str, run: Run, tmp_path: Path) -> None:
    """An unknown backend is an error of one line, and no record of a stack is written."""
    ran = run("up", BACKEND=backend)
    assert ran.returncode == 1
    assert ran.stderr == f"error: BACKEND={backend!r}: expected one of auto, docker, local\n"
    assert not (tmp_path / "var/stack.json").exists()


@pytest.mark.parametrize("backend", ["", "auto", "local", "docker"])
@pytest.mark.parametrize("verb", ["scale", "resources", "restart", "status", "stats"])
def test_verbs_without_a_running_stack_suggest_make_up(verb: str, backend: str, docker: FakeDocker, run: Run) -> None:
    """If no stack runs, verbs that inspect or change one say how to start it, with every backend."""
    docker.start_engine()
    ran = run(verb, BACKEND=backend)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: nothing is running here; start it with: make up\n"


@pytest.mark.parametrize(
    ("variable", "value"), [("N", "0"), ("HTTP_PORT", "http"), ("LOCUST_PORT", "-1"), ("WEB_CONCURRENCY", "many")]
)
def test_invalid_value_is_an_error_of_one_line(variable: str, value: str, run: Run) -> None:
    """An invalid value stops `make up` with one line: the variable, its value and what was expected."""
    ran = run("up", **{variable: value})
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {variable}={value!r}: expected a whole number from ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("version", [{}, {"VERSION": ""}])
def test_promote_without_version_asks_for_one(version: dict[str, str], run: Run, docker: FakeDocker) -> None:
    """Without VERSION, `promote` says what is missing and asks neither an engine nor a registry."""
    ran = run("promote", **version)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: VERSION is missing: make promote VERSION=2 (to undo a promotion: make rollback)\n"
    assert docker.calls == []


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_refused_promotion_is_stored(verb: str, run: Run, tmp_path: Path) -> None:
    """The reason why a promotion was refused is stored for later commands to print."""
    refused = run(verb, VERSION="2", MODEL_URI="models:/covertype/1")
    assert refused.returncode == 1
    reason = refused.stderr.removeprefix("error: ")
    assert reason.startswith("MODEL_URI='models:/covertype/1' names no alias that could be moved")
    assert (tmp_path / "var/refusal.txt").read_text() == f"the last make {verb} was refused: {reason}"


def test_down_without_a_stack_succeeds(run: Run) -> None:
    """`down` succeeds if no stack runs."""
    ran = run("down")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "down\n", "")


def test_second_command_waits_for_the_lock(environ: dict[str, str], tmp_path: Path) -> None:
    """A command that changes a stack says that it waits for another one, and then runs."""
    (tmp_path / "var").mkdir()
    with (tmp_path / "var/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "deploy.cli", "down"]
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "waiting for another command that changes this stack\n"
            assert waiting.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.communicate(timeout=60)[0] == "down\n"
    assert waiting.returncode == 0


def test_settings_file_is_used_for_unset_variables(settings_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that the environment does not set has the value of .env."""
    settings_file.write_text("# a comment\nBACKEND=kubernetes\n")
    assert cli.main(["status"]) == 1
    assert "BACKEND='kubernetes'" in capsys.readouterr().err


def test_environment_overrides_the_settings_file(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable of the environment overrides .env, and an empty value in .env counts as not set."""
    settings_file.write_text("BACKEND=kubernetes\nVAR_DIR=ignored\nN=\n")
    monkeypatch.setenv("BACKEND", "local")
    assert cli.main(["status"]) == 1
    assert "nothing is running here" in capsys.readouterr().err
    assert sorted(path.name for path in settings_file.parent.iterdir()) == [".env", "var"]


@pytest.mark.parametrize("verb", ["status", "stats", "logs"])
def test_inspecting_verbs_skip_invalid_settings(verb: str, run: Run) -> None:
    """Verbs that inspect or stop a stack do not fail because of invalid settings that they do not need."""
    assert "HTTP_PORT" not in run(verb, HTTP_PORT="http", CPUS="x", KEEP_ALIVE="abc").stderr
    assert run("down", HTTP_PORT="http").returncode == 0


def test_logs_of_an_unknown_service_is_an_error(run: Run) -> None:
    """`make logs` with an unknown service is an error of one line that names the variable S."""
    ran = run("logs", S="gunicorn")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: S='gunicorn': expected one of ")


def test_status_and_logs_print_the_stored_refusal(run: Run, tmp_path: Path) -> None:
    """`status` and `logs` print why the last change was refused before everything else."""
    assert run("up", N="0").returncode == 1
    refusal = "the last make up was refused: N='0': expected a whole number from 1 to 16\n"
    assert (tmp_path / "var/refusal.txt").read_text() == refusal
    for verb in ("status", "logs"):
        ran = run(verb)
        assert (ran.returncode, ran.stdout) == (1, refusal)
        assert ran.stderr.count("\n") == 1


def test_new_refusal_replaces_the_stored_one(run: Run) -> None:
    """The reason of the last refused change replaces that of an earlier one."""
    assert run("up", WEB_CONCURRENCY="0").returncode == 1
    assert run("scale", N="2").returncode == 1
    assert run("status").stdout == (
        "the last make scale was refused: nothing is running here; start it with: make up\n"
    )


def test_successful_change_deletes_the_stored_refusal(run: Run, tmp_path: Path) -> None:
    """A change that succeeds deletes the stored reason of an earlier refusal."""
    assert run("up", N="0").returncode == 1
    assert run("down").returncode == 0
    assert not (tmp_path / "var/refusal.txt").exists()
    assert run("status").stdout == ""


def test_inspecting_verbs_leave_the_stored_refusal(run: Run, tmp_path: Path) -> None:
    """A verb that only inspects a stack neither stores a refusal nor deletes one."""
    assert run("logs", S="gunicorn").returncode == 1
    assert run("status").returncode == 1
    assert not (tmp_path / "var/refusal.txt").exists()
    assert run("up", N="0").returncode == 1
    for verb in ("status", "logs", "stats"):
        assert run(verb).returncode == 1
    assert (tmp_path / "var/refusal.txt").exists()


def test_clean_deletes_the_stored_refusal(run: Run, tmp_path: Path) -> None:
    """An unconfirmed `clean` stores a refusal, and a confirmed one deletes it."""
    assert run("clean").returncode == 1
    assert run("status").stdout == (
        "the last make clean was refused: nothing was deleted; to delete without a question: make clean YES=1\n"
    )
    assert run("clean", YES="1").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_missing_engine_is_stored_as_refusal(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """The error that no Docker engine answers is stored as the reason of the refusal."""
    docker.answer("version", err="Cannot connect to the Docker daemon\n", status=1)
    ran = run("up", BACKEND="docker")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: BACKEND=docker: no Docker engine answers\n"
    assert (tmp_path / "var/refusal.txt").read_text() == (
        "the last make up was refused: BACKEND=docker: no Docker engine answers\n"
    )


def test_settings_file_reaches_compose(
    docker: FakeDocker, settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verbs pass the variables of .env to Compose."""
    docker.start_engine()
    docker.answer("compose", "build")
    docker.answer("image", "inspect", "{{.Size}}", out="0\n")
    settings_file.write_text("TAG=v7\nCOMPOSE_PROJECT_NAME=other\n")
    assert cli.main(["build"]) == 0
    (built,) = [call for call in docker.calls if "build" in call.arguments]
    assert (built.environ["TAG"], built.environ["COMPOSE_PROJECT_NAME"]) == ("v7", "other")
    assert capsys.readouterr().err == ""


def test_build_prints_image_sizes_on_any_backend(docker: FakeDocker, run: Run) -> None:
    """`build` builds the images with every backend and prints the size of each."""
    docker.start_engine()
    docker.answer("compose", "build")
    docker.answer("image", "inspect", "{{.Size}}", out="25000000\n")
    ran = run("build", BACKEND="local")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split("  ")[1] for line in ran.stdout.splitlines()] == ["25 MB"] * 4
    assert len(docker.ran("compose", "build")) == 1


def test_failed_build_is_reported_by_its_last_line(docker: FakeDocker, run: Run) -> None:
    """A build that fails is an error of one line: the last line of the builder."""
    docker.start_engine()
    docker.answer("compose", "build", err="#1 ERROR\nfailed to solve\n", status=1)
    ran = run("build")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: docker compose --env-file: failed to solve\n"


@pytest.mark.parametrize("missing", ["IMAGE", "TAG"])
def test_publish_without_image_or_tag_is_an_error(docker: FakeDocker, run: Run, missing: str) -> None:
    """`publish` names the variable that is missing and builds nothing."""
    docker.start_engine()
    ran = run("publish", **({"IMAGE": "registry.example.com/forkcast", "TAG": "v1"} | {missing: ""}))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {missing} is missing: make publish IMAGE=")
    assert docker.ran("buildx") == []


def test_publish_pushes_both_platforms_as_named(docker: FakeDocker, run: Run) -> None:
    """`publish` builds for both platforms and pushes images named by IMAGE and TAG."""
    docker.start_engine()
    docker.answer("buildx", "bake")
    ran = run("publish", IMAGE="registry.example.com/forkcast", TAG="v1", BUILDER="mine")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    call = docker.calls[-1]
    assert {"bake", "--push", "mine", "*.platform=linux/amd64,linux/arm64"} < set(call.arguments)
    assert (call.environ["IMAGE"], call.environ["TAG"]) == ("registry.example.com/forkcast", "v1")


def test_down_stops_containers_started_by_compose(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """`down` also stops containers of this checkout that `docker compose` started without the verbs."""
    docker.start_engine()
    docker.answer("compose", "down")
    docker.containers(container(folder=str(ROOT)))
    ran = run("down", BACKEND="")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "down\n", "")
    assert len(docker.ran("compose", "down")) == 1
    assert Layout(tmp_path / "var").refusal.exists() is False


def test_down_removes_a_damaged_record(run: Run, tmp_path: Path) -> None:
    """With a damaged record `status` fails, but `down` stops the stack and deletes the record."""
    (tmp_path / "var").mkdir()
    record = tmp_path / "var/stack.json"
    record.write_text('{"backend": "kubernetes"}')
    ran = run("status", BACKEND="")
    assert (ran.returncode, ran.stderr) == (1, f"error: {record} is damaged: run make down, then make up\n")
    ran = run("down")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "down\n", "")
    assert not record.exists()


def test_clean_with_a_damaged_record_deletes_the_data(run: Run, tmp_path: Path) -> None:
    """A damaged record does not keep `clean` from deleting the data of the stack."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var/stack.json").write_text("{")
    assert run("clean", YES="1").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_clean_deletes_volumes_of_the_recorded_project(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """`clean` deletes the volumes of the Compose project that the checkout used, also if its containers are gone."""
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


def test_clean_without_an_engine_deletes_nothing(docker: FakeDocker, run: Run, tmp_path: Path) -> None:
    """If the volumes cannot be deleted, `clean` deletes no files and keeps the name of the Compose project."""
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


def test_clean_without_compose_project_asks_no_engine(docker: FakeDocker, run: Run) -> None:
    """`clean` in a checkout that never used containers asks no Docker engine."""
    assert run("clean", YES="1").returncode == 0
    assert docker.calls == []


def test_clean_without_confirmation_deletes_nothing(run: Run, tmp_path: Path) -> None:
    """Without a terminal and without YES=1, `clean` deletes nothing."""
    database = tmp_path / "var/mlflow.db"
    database.parent.mkdir()
    database.touch()
    error = "nothing was deleted; to delete without a question: make clean YES=1"
    for variables in ({}, {"YES": "0"}, {"YES": "yes"}):
        ran = run("clean", **variables)
        assert (ran.returncode, ran.stderr) == (1, f"error: {error}\n")
        assert database.exists()


def test_clean_with_yes_deletes_only_the_stack(run: Run, tmp_path: Path) -> None:
    """With YES=1, `clean` deletes the folder of the stack and no other files."""
    (tmp_path / "var").mkdir()
    (tmp_path / "other-file").touch()
    ran = run("clean", YES="1")
    assert (ran.returncode, ran.stdout) == (0, f"deleted the data of the stack in {tmp_path / 'var'}\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "other-file"]


def test_clean_keeps_files_that_no_stack_wrote(run: Run, tmp_path: Path) -> None:
    """`clean` keeps files in VAR_DIR that no stack wrote."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var/thesis.txt").touch()
    assert run("clean", YES="1").returncode == 0
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("Y \n", True), ("n\n", False), ("\n", False)])
def test_clean_deletes_after_yes(answer: str, deleted: bool, environ: dict[str, str], tmp_path: Path) -> None:
    """At a terminal, `clean` deletes only if the answer is `y`."""
    (tmp_path / "var").mkdir()
    own_end, child_end = pty.openpty()
    try:
        os.write(own_end, answer.encode())
        command = [sys.executable, "-m", "deploy.cli", "clean"]
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=environ,
            stdin=child_end,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(own_end)
        os.close(child_end)
    assert ran.returncode == (0 if deleted else 1), ran.stderr
    assert f"delete {tmp_path / 'var'}, with its registry and all trained models? [y/N]" in ran.stdout + ran.stderr
    assert (tmp_path / "var").exists() is not deleted


def test_make_alone_lists_every_verb(environ: dict[str, str]) -> None:
    """`make` without a target prints how to call each verb and the first line of its docstring."""
    ran = subprocess.run(["make"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60)
    lines = iter(ran.stdout.splitlines())
    listed = {usage.split()[1]: text.strip() for usage, text in zip(lines, lines, strict=True)}
    for verb, method in cli.VERBS.items():
        assert listed[verb] == (method.__doc__ or "").splitlines()[0]


def test_every_verb_is_a_phony_target(environ: dict[str, str]) -> None:
    """Each verb is a phony target that runs exactly its command."""
    makefile = (ROOT / "Makefile").read_text()
    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE))
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    assert sorted(phony.split()) == sorted(targets)
    assert set(cli.VERBS) <= set(targets)
    for verb in cli.VERBS:
        # `-o` keeps make from rebuilding the environment, so that it prints the command of the verb only.
        ran = subprocess.run(
            ["make", "-n", "-o", ".venv/bin/.cli", verb],
            cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert ran.stdout == f".venv/bin/python -m deploy.cli {verb}\n"
