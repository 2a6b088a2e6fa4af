"""Rules that all tests follow, and fixtures with a fake `docker` command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

from tests.support import interrupts
from tests.support.fake_docker import FakeDocker

# The time that an example takes depends on how busy the machine is, so it is not checked.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

_TESTS = Path(__file__).parent
# The order in which pytest-xdist's workers get the groups of tests: the slowest groups first.
_ENGINE, _END_TO_END, _UNIT = range(3)


def pytest_configure(config: pytest.Config) -> None:
    interrupts.prepare(config)


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers of `make test`: one more than CPUs, since tests mostly wait."""
    return 1 + (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check that each test has a docstring, and assign each test to a group that one worker runs in sequence.

    `pytest --dist loadgroup`, which `make test` uses, distributes these groups. All tests that need Docker's engine are
    one group: those whose module imports ``require_engine``. Every other module is a group, so that its fixtures are
    set up once.
    """
    for item in items:
        if not (getattr(item, "obj", None).__doc__ or "").rstrip().endswith("."):
            raise pytest.UsageError(f"{item.nodeid}: expected a docstring that is a sentence and ends with a full stop")
        if item.get_closest_marker("xdist_group") is None:
            group = "engine" if _needs_engine(item) else item.path.relative_to(_TESTS).with_suffix("").as_posix()
            item.add_marker(pytest.mark.xdist_group(group))
        if getattr(config.option, "loadgroup", False):
            _name_group(item)
    items.sort(key=_rank)


def _name_group(item: pytest.Item) -> None:
    """Add the group to the test's id: pytest-xdist 3.8 fails to do so with pytest 9.2.

    See https://github.com/pytest-dev/pytest-xdist/issues/1386: without this, each test would be a separate group.
    """
    mark = item.get_closest_marker("xdist_group")
    assert mark
    item._id = NodeId.parse(f"{item.nodeid}@{mark.args[0]}")
    assert item.nodeid.endswith(f"@{mark.args[0]}")


def _rank(item: pytest.Item) -> int:
    if _needs_engine(item):
        return _ENGINE
    return _END_TO_END if _TESTS / "e2e" in item.path.parents else _UNIT


def _needs_engine(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "module", None), "require_engine")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Put a fake `docker` without any answers on PATH, for this process and its child processes."""
    fake = FakeDocker(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake.path)
    for name in ("DOCKER_HOST", "COMPOSE_PROJECT_NAME", "BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.fixture
def no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set PATH to an empty folder, so that no `docker` is found."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("BACKEND", raising=False)
