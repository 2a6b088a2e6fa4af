"""The scaling lab on the local backend: real Locust, real Nginx, short ladders."""

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
    """One replica of one worker, with a folder of results of its own."""
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


def words(**variables: str) -> list[str]:
    return [f"{name}={value}" for name, value in (QUICK | variables).items()]


@contextmanager
def started(stack: Stack, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`make` in a process group of its own, as a terminal has it; ended where a test leaves it running."""
    environ = {**clean_environ(), **stack.environ, "VAR_DIR": str(stack.var)}
    process = subprocess.Popen(
        ["make", "-s", *arguments], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            interrupted(process)


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Press Ctrl-C; the status, and what it printed for people."""
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def wait_for_results(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; while results are being written, they may not be there or readable."""

    def holds() -> object:
        with suppress(CommandError, FileNotFoundError, ValueError):
            return condition()
        return None

    wait_until(holds, seconds=120, pause=0.2)


def locusts(stack: Stack) -> list[str]:
    """Command lines of load generators of this stack's lab."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "--record" in line and stack.address in line:
            found.append(line)
    return found


def test_load_measures_the_stack_that_is_up(lab: Stack) -> None:
    """A step on both clocks, its report, Locust's own files, a run in MLflow; and the stack stays as it was."""
    before = lab.pids()
    told = lab.make_ok("load", "USERS=20", "SPAWN_RATE=20", "RUN_TIME=10s")
    results = newest(lab)
    (step,) = results.steps
    assert (step.users, step.failures) == (20, 0)
    assert step.requests > 20
    assert step.nginx_requests == pytest.approx(step.requests, rel=0.1)
    assert step.null_rps is not None
    assert step.memory is not None
    assert step.cpus is not None
    assert str(results.folder / "report.html") in told
    folder = results.folder / "runs" / results.runs[0].topology.slug
    assert {"locust.html", "locust_stats.csv", "locust_failures.csv"} <= {path.name for path in folder.iterdir()}
    with sqlite3.connect(lab.var / "mlflow.db") as registry:
        runs = registry.execute(
            "select count(*) from runs join experiments using (experiment_id) where experiments.name = 'scaling'"
        ).fetchone()
    assert runs == (1,)
    assert lab.pids() == before
    assert not locusts(lab)


@pytest.mark.slow
def test_compare_interrupted_goes_on(lab: Stack) -> None:
    """Ctrl-C keeps what was measured and gives the stack back; RESUME measures the rest, and only that."""
    with started(lab, "compare", "TOPOLOGIES=1x1:1 1x1:2", *words()) as process:
        wait_for_results(
            lambda: newest(lab).conditions["verb"] == "compare" and len(newest(lab).runs) == 2 and locusts(lab)
        )
        status, errors = interrupted(process)
    assert status != 0
    assert "interrupted by SIGINT" in errors
    assert "Traceback" not in errors
    results = newest(lab)
    assert [run.done for run in results.runs] == [True, False]
    assert (results.folder / "report.html").exists()
    assert not locusts(lab)
    assert lab.health(1)["workers"] == 1
    first = results.steps[0]
    lab.make_ok("compare", f"RESUME={results.folder}")
    resumed = Results.load(results.folder)
    assert [run.topology.name for run in resumed.runs] == ["1x1:1", "1x1:2"]
    assert all(run.done for run in resumed.runs)
    assert resumed.steps[0] == first
    assert lab.get("/health")[1]["workers"] == 1


@pytest.mark.slow
def test_service_that_goes_away(lab: Stack) -> None:
    """A service that stops in mid-run fails the steps that it did not answer; what was measured stays."""
    with started(lab, "max-users", *words(USERS="120")) as process:  # twice what is climbed before it has gone
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
def test_what_cannot_be_is_refused(lab: Stack, arguments: list[str], reason: str) -> None:
    """A bad setting is one line that names it, before anything is started or changed."""
    before = set(Path(lab.environ["RESULTS_DIR"]).iterdir())
    assert reason in lab.make_error(*arguments)
    assert set(Path(lab.environ["RESULTS_DIR"]).iterdir()) == before


def test_nothing_to_measure(tmp_path: Path) -> None:
    """Without a stack, `make load` says how to start one."""
    told = Stack(tmp_path / "var", {"RESULTS_DIR": str(tmp_path / "results")}).make_error("load")
    assert told == "error: nothing is running here to be measured; start it with: make up"


@pytest.mark.slow
def test_killed_lab_leaves_no_generator(lab: Stack) -> None:
    """A lab that is killed takes its generator with it, and the next command measures."""
    with started(lab, "max-users", *words(STEP_SECONDS="60")) as process:
        wait_for_results(lambda: locusts(lab))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)
        process.communicate(timeout=60)
    wait_for_results(lambda: not locusts(lab))
    lab.make_ok("load", "USERS=20", "SPAWN_RATE=20", "RUN_TIME=8s")
    assert newest(lab).steps


def test_data_that_cannot_be_used(lab: Stack, tmp_path: Path) -> None:
    """What Locust says of its rows is what the user reads."""
    rows = tmp_path / "rows.csv"
    rows.write_text("one,two\n1,2\n")
    ran = lab.make("load", "USERS=20", "RUN_TIME=8s", f"DATA={rows}")
    assert ran.returncode != 0
    (told,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert told.startswith(f"error: --data {rows} lacks ")
    assert "Traceback" not in ran.stderr


def test_results_are_deleted_and_nothing_else(lab: Stack, tmp_path: Path) -> None:
    """`make clean-results` knows its own folders by their names."""
    kept = tmp_path / "results" / "thesis"
    kept.mkdir(parents=True)
    (tmp_path / "results/20261121-163527-compare/runs").mkdir(parents=True)
    assert "deleted 1 results" in lab.make_ok("clean-results", f"RESULTS_DIR={kept.parent}")
    assert [path.name for path in kept.parent.iterdir()] == ["thesis"]


def test_plan_and_report(lab: Stack) -> None:
    """What was measured is projected, and its report is written anew, without measuring."""
    for results in map(Results.load, Path(lab.environ["RESULTS_DIR"]).iterdir()):
        for run in results.runs:  # a busy neighbour may have spoilt them, and nothing is projected from what is spoilt
            run.steps = [replace(step, verdict=PASS, reason="") for step in run.steps]
        results.save()
    told = lab.make_ok("plan", "USERS=1000000")
    assert "PROJECTION" in told
    page = max(Path(lab.environ["RESULTS_DIR"]).glob("*/report.html"))
    page.unlink()
    assert str(page) in lab.make_ok("report")
    assert page.exists()
    assert json.loads((page.parent / "lab.json").read_text())["runs"]
