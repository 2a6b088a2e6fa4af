"""Where each test runs under pytest-xdist, as in `make test`.

Its workers have those in one process, all at once; then pytest's own process has those marked e2e, one after another:
alone on the machine, and where Ctrl-C leaves them the time to stop what they started.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import zip_longest
from pathlib import Path

import pytest

_E2E = Path(__file__).parent / "e2e"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not read files of which nothing runs here; but `--lf` has to know all that failed."""
    if collection_path.suffix != ".py" or config.getoption("lf", False):
        return None
    if _is_worker(config):
        nothing = _E2E in collection_path.parents
    else:
        nothing = _has_workers(config) and not _may_be_e2e(collection_path)
    return True if nothing else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Leave out what runs elsewhere, after everybody else's choice."""
    yield
    if _is_worker(config) or _has_workers(config):
        items[:] = [item for item in items if bool(item.get_closest_marker("e2e")) is not _is_worker(config)]


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Run what this process keeps to itself when the workers are done."""
    if not _has_workers(session.config):
        return (yield)
    plugins = session.config.pluginmanager
    # xdist has nothing collected here.
    plugins.subset_hook_caller("pytest_collection", [plugins.getplugin("dsession")])(session=session)
    done = yield
    session.testscollected += len(session.items)  # it was set to what a worker has
    _run(session)
    return done


def _run(session: pytest.Session) -> None:
    for item, following in zip_longest(session.items, session.items[1:]):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)


def _may_be_e2e(path: Path) -> bool:
    return _E2E in path.parents or "mark.e2e" in path.read_text()


def _has_workers(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("dsession")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
