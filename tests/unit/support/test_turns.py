"""Who runs which test under pytest-xdist, in a project of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import ROOT
from tests.support.waiting import wait_until

CONFIG = "[pytest]\nmarkers = e2e: x\n"
CONFTEST = (
    "from tests.support import turns\n\n\ndef pytest_configure(config):\n    config.pluginmanager.register(turns)\n"
)
# Each test leaves a line: what it is, and which process it ran in; so does the end of each lane's fixture.
TELL = """
import os
import time
from pathlib import Path


def tell(name):
    with Path("ran").open("a") as ran:
        print(name, os.environ.get("PYTEST_XDIST_WORKER", os.getpid()), file=ran)
    if name in os.environ["MEET"].split():
        meet(os.environ["MEET"].split())
    assert name not in os.environ["FAIL"]


def meet(names):
    deadline = time.monotonic() + 60
    while not set(names) <= {line.split()[0] for line in Path("ran").read_text().splitlines()}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
"""
UNIT = """
import pytest

from tell import tell


@pytest.mark.parametrize("number", range(9))
def test_unit(number):
    tell(f"unit{number}")
"""
LANE = """
import time

import pytest

from tell import tell

{more}
@pytest.fixture(scope="module")
def made():
    yield
    time.sleep(0.5)
    tell("no-{name}")


@pytest.mark.e2e
@pytest.mark.parametrize("number", range(3))
def test_it(made, number):
    tell(f"{name}{{number}}")
"""
STACKS, REPLICAS = ([f"{name}{number}" for number in range(3)] + [f"no-{name}"] for name in ("stack", "replica"))
UNITS = [f"unit{number}" for number in range(9)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    files = {
        "pytest.ini": CONFIG,
        "conftest.py": CONFTEST,
        "tell.py": TELL,
        "test_unit.py": UNIT,
        "test_stack.py": LANE.format(name="stack", more="require_engine = None\n"),
        "test_replica.py": LANE.format(name="replica", more=""),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def started(project: Path, *options: str, fail: str = "none", meet: str = "") -> subprocess.Popen[str]:
    """A pytest with two workers; tests that are to meet go on when all of them have begun."""
    (project / "ran").write_text("")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ = {**outside, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "FAIL": fail, "MEET": meet}
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "--dist", "worksteal", *options]
    return subprocess.Popen(
        command, cwd=project, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # Who runs these tests in a shell's background hands it on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  (no threads here)
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its status, and what it printed."""
    out, _ = process.communicate(timeout=240)
    return process.returncode, out


def lines(project: Path) -> list[tuple[str, str]]:
    """What ran where, in order."""
    return [(name, place) for name, place in map(str.split, (project / "ran").read_text().splitlines())]


def names(project: Path) -> list[str]:
    """What ran, in order."""
    return [name for name, _ in lines(project)]


def test_each_runs_once(project: Path) -> None:
    """Workers run what is in one process, then two lanes what is marked e2e, each in order, and each test once."""
    status, out = ended(started(project))
    assert status == 0, out
    assert "15 passed" in out
    found = lines(project)
    assert sorted(name for name, _ in found[:9]) == UNITS
    assert {place for _, place in found[:9]} <= {"gw0", "gw1"}
    lanes = {place: [name for name, where in found[9:] if where == place] for _, place in found[9:]}
    assert sorted(lanes.values()) == [REPLICAS, STACKS]


def test_lanes_run_side_by_side(project: Path) -> None:
    """A test of either lane goes on while one of the other does."""
    status, out = ended(started(project, meet="stack1 replica1"))
    assert status == 0, out


@pytest.mark.parametrize(
    ("options", "fail", "status", "expected"),
    [
        ((), "unit3", 1, UNITS + STACKS + REPLICAS),
        ((), "stack1", 1, UNITS + STACKS + REPLICAS),
        ((), "replica1", 1, UNITS + STACKS + REPLICAS),
        (("-m", "not e2e"), "none", 0, UNITS),
        (("-k", "test_stack"), "none", 0, STACKS),
        (("-k", "test_replica"), "none", 0, REPLICAS),
        (("-k", "nothing"), "none", 5, []),
    ],
)
def test_selection_applies_to_every_lane(
    project: Path, options: tuple[str, ...], fail: str, status: int, expected: list[str]
) -> None:
    """A choice of tests holds for all kinds, each of which may be none; a failure of any is shown, and the whole's."""
    found, out = ended(started(project, *options, fail=fail))
    assert (found, sorted(names(project))) == (status, sorted(expected)), out
    assert (f"FAILED test_{fail[:-1]}.py" in out, "AssertionError" in out) == 2 * (status == 1,)


@pytest.mark.parametrize("failed", ["unit3", "stack1", "replica1"])
def test_last_failed_reruns_only_failures(project: Path, failed: str) -> None:
    """With --lf what failed runs again, and no test of another kind."""
    ended(started(project, fail=failed))
    ended(started(project, "--lf"))
    assert [name for name in names(project) if not name.startswith("no-")] == [failed]


@pytest.mark.parametrize(("failed", "other"), [("stack0", "replica0"), ("replica0", "stack0")])
def test_first_failure_ends_both(project: Path, failed: str, other: str) -> None:
    """With -x a failure in one lane is the last test of it and ends the other one, and both stop what they started."""
    status, out = ended(started(project, "-x", fail=failed, meet=f"{failed} {other}"))
    assert status == 1, out
    found = names(project)
    assert {"no-stack", "no-replica"} <= set(found)
    assert f"{failed[:-1]}1" not in found
    assert len(found) < 9 + 8


def test_interrupt_ends_both(project: Path) -> None:
    """Ctrl-C ends both lanes in the middle of a test, and both have the time to stop what they started."""
    process = started(project, meet="stack0 replica0 never")
    wait_until(lambda: {"stack0", "replica0"} <= set(names(project)), pause=0.1)
    process.send_signal(signal.SIGINT)
    status, out = ended(process)
    assert status == 2, out
    assert sorted(names(project)[9:]) == ["no-replica", "no-stack", "replica0", "stack0"]
    assert "KeyboardInterrupt" in out


def test_dead_lane_fails_the_run(project: Path) -> None:
    """A second process that ends before its tests do is a failure of the whole."""
    process = started(project, meet="stack0 replica0 never")
    wait_until(lambda: {"stack0", "replica0"} <= set(names(project)), pause=0.1)
    os.kill(int(dict(lines(project))["replica0"]), signal.SIGKILL)
    with (project / "ran").open("a") as ran:
        print("never", 0, file=ran)
    status, out = ended(process)
    assert status == 1, out
    assert "the tests beside these were cut short" in out
