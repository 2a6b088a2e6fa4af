"""End-to-end tests of the scaling lab on the local backend, with real Locust and Nginx and short ladders."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.errors import CommandError
from deploy.scaling.results import Results
from deploy.scaling.step import PASS
from deploy.stack.paths import ROOT
from tests.support.stacks.local import Stack, clean_environ
from tests.support.waiting import wait_until

QUICK = {"USERS": "20", "STEP_USERS": "20", "SPAWN_RATE": "20", "STEP_SECONDS": "4", "SETTLE_SECONDS": "1"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, covertype_model: Path) -> Iterator[Stack]:
    """A stack of one replica with one worker, and a separate folder of results."""
    folder = tmp_path_factory.mktemp("lab")
    environ = {"MODEL_URI": str(covertype_model), "WEB_CONCURRENCY": "1", "RESULTS_DIR": str(folder / "results")}
    new_stack = Stack(folder / "var", environ)
    try:
        new_stack.make_ok("up")
        yield new_stack
    finally:
        new_stack.make("down")


def newest(stack: Stack) -> Results:
    return Results.load(max(Path(stack.environ["RESULTS_DIR"]).iterdir()))


def assignments(**variables: str) -> list[str]:
    return [f"{name}={value}" for name, value in (QUICK | variables).items()]


@contextmanager
def running_make(stack: Stack, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start `make` in its own process group, as a terminal does, and interrupt it if it runs when the block ends."""
    environ = {**clean_environ(), **stack.environ, "VAR_DIR": str(stack.var)}
    process = subprocess.Popen(
        ["make", "-s", *arguments], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            interrupt(process)


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Send SIGINT to the process group, as Ctrl-C does; return the exit status and the output on stderr."""
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def wait_for_results(condition: Callable[[], object]) -> None:
    """Wait until a condition on results holds; results that are being written may be missing or unreadable."""

    def holds() -> object:
        with suppress(CommandError, FileNotFoundError, ValueError):
            return condition()
        return None

    wait_until(holds, seconds=120, pause=0.2)


def generator_commands(stack: Stack) -> list[str]:
    """Return the command lines of the load generators that run against this stack."""
    command_lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "--record" in line and stack.address in line:
            command_lines.append(line)
    return command_lines


def test_load_measures_the_running_stack(lab: Stack) -> None:
    """`make load` records a step on both clocks, a report, Locust's files and an MLflow run."""
    pids = lab.pids()
    output = lab.make_ok("load", "USERS=20", "SPAWN_RATE=20", "RUN_TIME=10s")
    results = newest(lab)
    (step,) = results.steps
    assert (step.users, step.failures) == (20, 0)
    assert step.requests > 20
    assert step.nginx_requests == pytest.approx(step.requests, rel=0.1)
    assert step.null_rps is not None
    assert step.memory is not None
    assert step.cpus is not None
    assert str(results.folder / "report.html") in output
    folder = results.folder / "runs" / results.runs[0].topology.slug
    assert {"locust.html", "locust_stats.csv", "locust_failures.csv"} <= {path.name for path in folder.iterdir()}
    with sqlite3.connect(lab.var / "mlflow.db") as registry:
        runs = registry.execute(
            "select count(*) from runs join experiments using (experiment_id) where experiments.name = 'scaling'"
        ).fetchone()
    assert runs == (1,)
    assert lab.pids() == pids
    assert not generator_commands(lab)


@pytest.mark.slow
def test_interrupted_compare_can_be_resumed(lab: Stack) -> None:
    """Ctrl-C keeps the measurements and restores the stack; RESUME measures only the remaining topologies."""
    with running_make(lab, "compare", "TOPOLOGIES=1x1:1 1x1:2", *assignments()) as process:
        wait_for_results(
            lambda: (
                newest(lab).conditions["verb"] == "compare" and len(newest(lab).runs) == 2 and generator_commands(lab)
            )
        )
        status, errors = interrupt(process)
    assert status != 0
    assert "interrupted by SIGINT" in errors
    assert "Traceback" not in errors
    results = newest(lab)
    assert [run.done for run in results.runs] == [True, False]
    assert (results.folder / "report.html").exists()
    assert not generator_commands(lab)
    assert lab.health(1)["workers"] == 1
    first_step = results.steps[0]
    lab.make_ok("compare", f"RESUME={results.folder}")
    resumed = Results.load(results.folder)
    assert [run.topology.name for run in resumed.runs] == ["1x1:1", "1x1:2"]
    assert all(run.done for run in resumed.runs)
    assert resumed.steps[0] == first_step
    assert lab.get("/health")[1]["workers"] == 1


@pytest.mark.slow
def test_stopped_service_fails_later_steps(lab: Stack) -> None:
    """A service that stops during a run fails the steps that it did not answer; earlier measurements stay."""
    # More steps than are measured before the service stops.
    with running_make(lab, "max-users", *assignments(USERS="120")) as process:
        wait_for_results(lambda: newest(lab).conditions["verb"] == "max-users" and newest(lab).steps)
        lab.make_ok("down")
        _, errors = process.communicate(timeout=180)
    results = newest(lab)
    lab.make_ok("up")
    assert "Traceback" not in errors
    assert results.steps[0].failures == 0
    assert results.runs[0].ended or results.steps[-1].verdict == "fail"
    assert "does not answer" in results.runs[0].ended + errors


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["load", "USERS=100000", "SPAWN_RATE=20000"], "USERS=100000: Nginx can hold "),
        (["compare", "TOPOLOGIES=1x0.5:1"], "1x0.5:1: parts of a CPU need Docker"),
        (["compare", "TOPOLOGIES=1x1/1G:1"], "1x1/1G:1: a limit of memory needs Docker"),
        (["compare", "RESUME=/nowhere"], "/nowhere holds no results of the scaling lab"),
        (["plan"], "USERS is missing: make plan USERS=1000000"),
    ],
)
def test_invalid_setting_is_refused(lab: Stack, arguments: list[str], reason: str) -> None:
    """An invalid setting is refused with one line that names it, and no results are created."""
    folders = set(Path(lab.environ["RESULTS_DIR"]).iterdir())
    assert reason in lab.make_error(*arguments)
    assert set(Path(lab.environ["RESULTS_DIR"]).iterdir()) == folders


def test_load_without_a_stack_is_refused(tmp_path: Path) -> None:
    """Without a running stack, `make load` is refused with a hint how to start one."""
    line = Stack(tmp_path / "var", {"RESULTS_DIR": str(tmp_path / "results")}).make_error("load")
    assert line == "error: nothing is running here to be measured; start it with: make up"


@pytest.mark.slow
def test_killed_lab_leaves_no_generator(lab: Stack) -> None:
    """The load generator of a killed lab ends too, and the next command measures."""
    with running_make(lab, "max-users", *assignments(STEP_SECONDS="60")) as process:
        wait_for_results(lambda: generator_commands(lab))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)
        process.communicate(timeout=60)
    wait_for_results(lambda: not generator_commands(lab))
    lab.make_ok("load", "USERS=20", "SPAWN_RATE=20", "RUN_TIME=8s")
    assert newest(lab).steps


def test_unsuitable_data_file_is_refused(lab: Stack, tmp_path: Path) -> None:
    """Locust's error about a file of rows is the error of `make load`."""
    rows = tmp_path / "rows.csv"
    rows.write_text("one,two\n1,2\n")
    ran = lab.make("load", "USERS=20", "RUN_TIME=8s", f"DATA={rows}")
    assert ran.returncode != 0
    (error,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: --data {rows} lacks ")
    assert "Traceback" not in ran.stderr


def test_clean_results_deletes_only_results(lab: Stack, tmp_path: Path) -> None:
    """`make clean-results` deletes folders of results, which it recognizes by their names, and no others."""
    other_folder = tmp_path / "results" / "thesis"
    other_folder.mkdir(parents=True)
    (tmp_path / "results/20261121-163527-compare/runs").mkdir(parents=True)
    assert "deleted 1 results" in lab.make_ok("clean-results", f"RESULTS_DIR={other_folder.parent}")
    assert [path.name for path in other_folder.parent.iterdir()] == ["thesis"]


def test_plan_projects_and_report_is_rewritten(lab: Stack) -> None:
    """`make plan` projects earlier measurements, and `make report` writes a report again, without measuring."""
    for results in map(Results.load, Path(lab.environ["RESULTS_DIR"]).iterdir()):
        for run in results.runs:  # steps may have failed on a busy machine, and plan uses only passed steps
            run.steps = [replace(step, verdict=PASS, reason="") for step in run.steps]
        results.save()
    assert "PROJECTION" in lab.make_ok("plan", "USERS=1000000")
    page = max(Path(lab.environ["RESULTS_DIR"]).glob("*/report.html"))
    page.unlink()
    assert str(page) in lab.make_ok("report")
    assert page.exists()
    assert json.loads((page.parent / "lab.json").read_text())["runs"]
