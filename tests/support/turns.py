"""Where each test runs under pytest-xdist, as in `make test`.

Its workers have those in one process, all at once. Then come those marked e2e, in two lanes, for they wait more than
they compute: pytest's own process has those that need Docker's engine, one after another, and a second one beside it
the others (:mod:`tests.support.lane`). Ctrl-C leaves both the time to stop what they started. A test needs the engine
if its module imports ``require_engine``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.support.lane import Beside, reporter

_E2E = Path(__file__).parents[1] / "e2e"


def pytest_configure(config: pytest.Config) -> None:
    """Know the second process."""
    if beside := reporter(config):
        config.pluginmanager.register(beside, "beside")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not read files of which nothing runs here; but `--lf` has to know all that failed."""
    if collection_path.suffix != ".py" or config.getoption("lf", False):
        return None
    if _is_worker(config):
        nothing = _E2E in collection_path.parents
    else:
        nothing = (_has_workers(config) or _is_beside(config)) and not _may_be_e2e(collection_path)
    return True if nothing else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Leave out what runs elsewhere, after everybody else's choice."""
    yield
    if _is_worker(config):
        items[:] = [item for item in items if not _is_e2e(item)]
    elif _has_workers(config):
        items[:] = [item for item in items if _is_e2e(item)]
    elif _is_beside(config):
        items[:] = [item for item in items if _is_e2e(item) and not _needs_engine(item)]


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
    lane = [item for item in session.items if _needs_engine(item)]
    alone = len(lane) in (0, len(session.items))
    with nullcontext() if alone else Beside(session) as beside:
        session.items = session.items if alone else lane
        for item, following in zip_longest(session.items, session.items[1:]):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            _count(session, beside.so_far() if beside else ())
        _count(session, beside.rest() if beside else ())


def _count(session: pytest.Session, reports: Iterable[pytest.TestReport]) -> None:
    """Take the other lane's reports for ours, and stop where a failure, of either, is to be the last."""
    for report in reports:
        session.config.hook.pytest_runtest_logreport(report=report)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)


def _may_be_e2e(path: Path) -> bool:
    return _E2E in path.parents or "mark.e2e" in path.read_text()


def _is_e2e(item: pytest.Item) -> bool:
    return item.get_closest_marker("e2e") is not None


def _needs_engine(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "module", None), "require_engine")


def _has_workers(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("dsession")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _is_beside(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("beside")
