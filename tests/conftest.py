"""What all tests keep to, and what those of the container backend stand on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

from tests.support import interrupts
from tests.support.fake_docker import FakeDocker

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

_TESTS = Path(__file__).parent
# The order in which groups of tests are handed to pytest-xdist's workers: those that take longest first.
_ENGINE, _END_TO_END, _UNIT = range(3)


def pytest_configure(config: pytest.Config) -> None:
    interrupts.prepare(config)


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `make test` has: more than there are CPUs, since tests mostly wait."""
    return 1 + (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups after this
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check that each test opens with a sentence, and give each a group whose tests run one after another.

    The groups are for `pytest --dist loadgroup`, as in `make test`: one of all tests that need Docker's engine, which
    are those whose module imports ``require_engine``; and one of each other module, for the sake of its fixtures.
    """
    for item in items:
        if not (getattr(item, "obj", None).__doc__ or "").rstrip().endswith("."):
            raise pytest.UsageError(f"{item.nodeid} does not say what holds")
        if item.get_closest_marker("xdist_group") is None:
            group = "engine" if _needs_engine(item) else item.path.relative_to(_TESTS).with_suffix("").as_posix()
            item.add_marker(pytest.mark.xdist_group(group))
        if getattr(config.option, "loadgroup", False):
            _name_group(item)
    items.sort(key=_turn)


def _name_group(item: pytest.Item) -> None:
    """Add the group to the test's id, which pytest-xdist 3.8 fails to do with pytest 9.2.

    See https://github.com/pytest-dev/pytest-xdist/issues/1386: without it each test would be a group of its own.
    """
    mark = item.get_closest_marker("xdist_group")
    assert mark
    item._id = NodeId.parse(f"{item.nodeid}@{mark.args[0]}")
    assert item.nodeid.endswith(f"@{mark.args[0]}")


def _turn(item: pytest.Item) -> int:
    if _needs_engine(item):
        return _ENGINE
    return _END_TO_END if _TESTS / "e2e" in item.path.parents else _UNIT


def _needs_engine(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "module", None), "require_engine")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """The `docker` that this process and those that it starts will find, with no answer yet."""
    fake = FakeDocker(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake.path)
    for name in ("DOCKER_HOST", "COMPOSE_PROJECT_NAME", "BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.fixture
def no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `docker` on PATH, nor anything else."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("BACKEND", raising=False)
