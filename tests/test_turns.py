"""Who runs which test under pytest-xdist, in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import ROOT

CONFIG = "[pytest]\nmarkers = e2e: x\n"
CONFTEST = "from tests import turns\n\n\ndef pytest_configure(config):\n    config.pluginmanager.register(turns)\n"
# Each test leaves a line: what it is, and which process it ran in.
TESTS = """
import os
from pathlib import Path

import pytest


def tell(name):
    with Path("ran").open("a") as ran:
        print(name, os.environ.get("PYTEST_XDIST_WORKER", "alone"), file=ran)
    assert name not in os.environ["FAIL"]


@pytest.mark.e2e
@pytest.mark.parametrize("number", range(3))
def test_stack(number):
    tell(f"stack{number}")


@pytest.mark.parametrize("number", range(9))
def test_unit(number):
    tell(f"unit{number}")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in (("pytest.ini", CONFIG), ("conftest.py", CONFTEST), ("test_both.py", TESTS)):
        (folder / name).write_text(text)
    return folder


def ran(project: Path, *options: str, fail: str = "none") -> tuple[int, list[tuple[str, str]]]:
    """The status of pytest with two workers, and what ran where, in order."""
    (project / "ran").write_text("")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ = {**outside, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "FAIL": fail}
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "--dist", "worksteal", *options]
    status = subprocess.run(command, cwd=project, env=environ, capture_output=True, check=False, timeout=60).returncode
    return status, [(name, place) for name, place in map(str.split, (project / "ran").read_text().splitlines())]


def test_each_runs_once(project: Path) -> None:
    """Workers run what is in one process, then pytest's own process what is marked e2e, in order, and each once."""
    status, lines = ran(project)
    assert status == 0
    assert sorted(name for name, _ in lines[:9]) == [f"unit{number}" for number in range(9)]
    assert "alone" not in {place for _, place in lines[:9]}
    assert lines[9:] == [(f"stack{number}", "alone") for number in range(3)]


@pytest.mark.parametrize(
    ("options", "fail", "status", "count"),
    [
        ((), "unit3", 1, 12),
        ((), "stack1", 1, 12),
        (("-m", "not e2e"), "none", 0, 9),
        (("-k", "nothing"), "none", 5, 0),
    ],
)
def test_options(project: Path, options: tuple[str, ...], fail: str, status: int, count: int) -> None:
    """A choice of tests holds for both kinds, a failure of either is one of the whole, and a kind may have none."""
    found, lines = ran(project, *options, fail=fail)
    assert (found, len(lines)) == (status, count)


def test_what_failed_last(project: Path) -> None:
    """With --lf what failed runs again, and no test of the other kind."""
    ran(project, fail="unit3")
    assert [name for name, _ in ran(project, "--lf")[1]] == ["unit3"]
