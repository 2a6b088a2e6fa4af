"""Fixtures of the end-to-end tests: a data set, a stack started by `make`, and replicas started by `gunicorn`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.models.training.form import COLUMNS
from deploy.models.training.synthetic import generate
from tests.support.models import saved_models
from tests.support.stacks.local import Replica, Stack, StartReplica, launch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def covertype_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CSV file with the columns of the Covertype data set."""
    data = generate(rows=4000)
    path = tmp_path_factory.mktemp("data") / "covertype.csv"
    table = np.column_stack([data.x, data.y])
    np.savetxt(path, table, fmt="%d", delimiter=",", header=",".join(COLUMNS), comments="")
    return path


@pytest.fixture(scope="session")
def covertype_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Covertype model, for stacks that do not train one."""
    return saved_models.covertype_forest(tmp_path_factory.mktemp("model") / "covertype")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[Stack]:
    """A stack of two replicas with two workers each, which trained its own model; its tests are the group `stack`."""
    environ = {"COVERTYPE_PATH": str(covertype_csv), "WEB_CONCURRENCY": "2"}
    new_stack = Stack(tmp_path_factory.mktemp("stack") / "var", environ)
    try:
        new_stack.make_ok("up", "N=2")
        yield new_stack
    finally:
        new_stack.make("down")


@pytest.fixture
def start_replica(tmp_path: Path) -> Iterator[StartReplica]:
    """A function that starts a replica of a model's folder and waits until it is ready.

    The replicas are stopped at the end of the test.
    """
    replicas: list[Replica] = []

    def start(model: Path, **settings: str) -> Replica:
        replicas.append(launch(model, tmp_path / f"replica-{len(replicas)}.log", **settings))
        replicas[-1].wait_ready()
        return replicas[-1]

    yield start
    for replica in replicas:
        replica.stop()
