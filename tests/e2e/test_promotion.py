"""End-to-end tests of promotions and rollbacks on a local stack under load."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
from sklearn.tree import DecisionTreeClassifier

from deploy.backends.local.watch import process_tree
from deploy.models.training.form import FEATURES
from deploy.models.training.synthetic import generate
from tests.support.models import saved_models
from tests.support.models.registries import Registry, new_registry
from tests.support.stacks.local import Stack
from tests.support.stress.load import LOW_RATE, Load
from tests.support.waiting import wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    from deploy.models.registry.pointer import Pointer, PointerState

pytestmark = pytest.mark.slow

# Extra memory of each model: a model that is kept by mistake is more than a tenth of a replica's memory.
BALLAST_BYTES = 40_000_000
PREDICTION_OF_VERSION = {"1": 11, "2": 22}  # the valid versions, whose predictions are constant
ERROR_OF_VERSION = {
    "3": "the model cannot be served: the model's file model.pkl does not load",
    "4": "the model's files differ from those registered",
    "5": "its signature differs from the served model's: column soil_type is missing; FORCE=1 accepts it",
    "6": "the model cannot predict its example: ValueError: X has 12 features",
    "7": "covertype version 7 was not promoted, and the previous version is served again: replica-1: ",
}
PARTLY_BROKEN = "8"  # loads in the first replica but not in the second


class RaiseIf:
    """An object whose unpickling raises if a condition holds, and otherwise gives None."""

    def __init__(self, condition: str) -> None:
        self._condition = condition

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"1 / 0 if {self._condition} else None",)


def save_constant(path: Path, prediction: int, columns: tuple[str, ...] = FEATURES) -> Path:
    """Save a model of these columns with a constant prediction, and return its folder."""
    frame = pd.DataFrame(generate(rows=50).x, columns=list(FEATURES))[list(columns)]
    tree = DecisionTreeClassifier().fit(frame, [prediction] * len(frame))
    tree.ballast = bytes(str(prediction), "ascii") * (BALLAST_BYTES // 2)
    return saved_models.save_sklearn(path, tree, frame)


def copy_with_estimator(folder: Path, path: Path, content: bytes) -> Path:
    """Copy a model's folder with other content for its estimator's file, and return the copy."""
    shutil.copytree(folder, path)
    (path / "model.pkl").write_bytes(content)
    return path


def raising_estimator(folder: Path, condition: str) -> bytes:
    """Return the pickled estimator of a folder, changed so that it does not load if a condition holds."""
    tree = pickle.loads((folder / "model.pkl").read_bytes())  # noqa: S301  (written above)
    tree.ballast = RaiseIf(condition)
    return pickle.dumps(tree)


def register_all(registry: Registry, scratch: Path) -> None:
    """Register the valid versions 1 and 2, and the broken versions."""
    valid = [save_constant(scratch / version, prediction) for version, prediction in PREDICTION_OF_VERSION.items()]
    first, one_column_tree = valid[0], DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    for folder in (*valid, copy_with_estimator(first, scratch / "3", b"no pickle")):
        registry.register("covertype", folder)
    registry.register("covertype", copy_with_estimator(first, scratch / "4", b"forged"), digest="0" * 64)
    for folder in (
        save_constant(scratch / "5", 5, FEATURES[:-1]),
        copy_with_estimator(first, scratch / "6", pickle.dumps(one_column_tree)),
        copy_with_estimator(first, scratch / "7", raising_estimator(first, "'REPLICA' in __import__('os').environ")),
        copy_with_estimator(
            first,
            scratch / PARTLY_BROKEN,
            raising_estimator(first, "__import__('os').environ.get('REPLICA') == 'replica-2'"),
        ),
    ):
        registry.register("covertype", folder)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of two replicas with one worker each, and a registry of valid and broken versions."""
    new_stack = Stack(tmp_path_factory.mktemp("promotion") / "var", {"WEB_CONCURRENCY": "1", "GRACEFUL_TIMEOUT": "10"})
    new_stack.var.mkdir()
    with new_registry(new_stack.var) as registry:
        register_all(registry, tmp_path_factory.mktemp("models"))
        Pointer("covertype", "champion").set_state(PointerState("1", "2"))
    try:
        new_stack.make_ok("up", "N=2")
        yield new_stack
    finally:
        new_stack.make("down")


@pytest.fixture
def on_version_1(stack: Stack) -> Stack:
    """The stack with two replicas and version 1, restored if an earlier test changed it."""
    if len(replicas(stack)) != 2:
        stack.make_ok("scale", "N=2")
    if served(stack) != ["1", "1"]:
        stack.make_ok("promote", "VERSION=1")
    assert served(stack) == ["1", "1"]
    return stack


def champion(stack: Stack) -> str:
    """Return the version of the alias, read from the registry's database."""
    with closing(sqlite3.connect(f"file:{stack.var}/mlflow.db?mode=ro", uri=True)) as database:
        ((version,),) = database.execute("SELECT version FROM registered_model_aliases WHERE alias = 'champion'")
    return str(version)


def replicas(stack: Stack) -> dict[str, int]:
    """Return the process id of each replica's master."""
    return {name: pid for name, pid in stack.pids().items() if name.startswith("replica-")}


def served(stack: Stack) -> list[str]:
    """Return the version that each replica reports."""
    return [stack.health(slot)["model"]["version"] for slot in range(1, len(replicas(stack)) + 1)]


def memory_of_replicas(stack: Stack) -> list[int]:
    """Wait until old workers have exited, and return the proportional set size (bytes) of each replica."""

    def master_and_worker(pid: int) -> list[psutil.Process] | None:
        processes = process_tree(pid)
        return processes if len(processes) == 2 else None

    families = [wait_until(partial(master_and_worker, pid)) for pid in replicas(stack).values()]
    return [sum(process.memory_full_info().pss for process in processes) for processes in families]


def assert_consistent(load: Load, *versions: str) -> None:
    """Assert that no request failed, and that each answer is of one of these versions with its prediction."""
    counts = load.counts
    assert counts.failed == 0, counts
    assert set(counts.versions) == set(versions), counts
    expected = {
        (version, str(PREDICTION_OF_VERSION.get(version, PREDICTION_OF_VERSION["1"]))): counts.versions[version]
        for version in versions
    }
    assert counts.predictions == expected


def test_promote_and_rollback_under_load_fail_no_request(on_version_1: Stack) -> None:
    """A promotion and a rollback of two replicas fail no request and free the memory of the previous version."""
    masters = replicas(on_version_1)
    with Load(on_version_1.port, **LOW_RATE) as load:
        load.wait_for(300)
    memory_before = memory_of_replicas(on_version_1)
    with Load(on_version_1.port, **LOW_RATE) as load:
        load.wait_for(300)
        for verb, version in ((("promote", "VERSION=2"), "2"), (("rollback",), "1")):
            line = on_version_1.make_ok(*verb)
            assert line.startswith(f"covertype version {version} is served after ")
            # From now on no replica answers for the previous version.
            versions_before = dict(load.counts.versions)
            load.wait_for(300)
            assert load.counts.versions[version] - versions_before.get(version, 0) >= 200
            assert served(on_version_1) == [version, version]
            assert champion(on_version_1) == version
    assert_consistent(load, "1", "2")
    assert replicas(on_version_1) == masters
    for final, initial in zip(memory_of_replicas(on_version_1), memory_before, strict=True):
        assert final <= 1.1 * initial, (final, initial)


def test_repeated_rollback_of_one_replica_fails_no_request(on_version_1: Stack) -> None:
    """Repeated `make rollback` of a single replica alternates between two versions without a failed request."""
    on_version_1.make_ok("scale", "N=1")
    memory_before = memory_of_replicas(on_version_1)
    with Load(on_version_1.port, **LOW_RATE) as load:
        for version in ("2", "1"):
            load.wait_for(300)
            on_version_1.make_ok("rollback")
            assert (served(on_version_1), champion(on_version_1)) == ([version], version)
        load.wait_for(300)
    assert_consistent(load, "1", "2")
    (final,), (initial,) = memory_of_replicas(on_version_1), memory_before
    assert final <= 1.1 * initial


def test_broken_versions_are_refused(on_version_1: Stack) -> None:
    """A broken version is refused with one line that has the reason, and the served version answers throughout."""
    masters = replicas(on_version_1)
    with Load(on_version_1.port, **LOW_RATE) as load:
        for version, reason in ERROR_OF_VERSION.items():
            load.wait_for(100)
            line = on_version_1.make_error("promote", f"VERSION={version}")
            assert reason in line
            assert champion(on_version_1) == "1"
    assert_consistent(load, "1")
    assert served(on_version_1) == ["1", "1"]
    assert replicas(on_version_1) == masters
    assert "the last make promote was refused: covertype version 7" in on_version_1.make_ok("status")


def test_failure_of_the_second_replica_undoes_the_promotion(on_version_1: Stack) -> None:
    """If the second replica cannot load a version, the first one returns to the previous version."""
    with Load(on_version_1.port, **LOW_RATE) as load:
        load.wait_for(100)
        line = on_version_1.make_error("promote", f"VERSION={PARTLY_BROKEN}")
        load.wait_for(100)
    assert "the previous version is served again: replica-2: the model's file model.pkl does not load" in line
    assert_consistent(load, "1", PARTLY_BROKEN)
    assert (served(on_version_1), champion(on_version_1)) == (["1", "1"], "1")


def test_sighup_without_a_registry_serves_the_last_good_copy(on_version_1: Stack) -> None:
    """A master that reloads while the registry is missing serves the last good copy and reports this."""
    database, moved = on_version_1.var / "mlflow.db", on_version_1.var / "moved.db"
    reloads = on_version_1.health(2)["reloads"]
    with Load(on_version_1.port, **LOW_RATE) as load:
        load.wait_for(100)
        database.rename(moved)
        try:
            os.kill(replicas(on_version_1)["replica-2"], signal.SIGHUP)
            wait_until(lambda: on_version_1.health(2)["reloads"] == reloads + 1)
            load.wait_for(300)
            health = on_version_1.health(2)
            assert (health["source"], health["model"]["version"]) == ("the last good copy", "1")
            assert "mlflow.db does not exist" in health["stale"]
            assert f"the registry's database {database} does not exist" in on_version_1.make_error(
                "promote", "VERSION=2"
            )
            assert not database.exists()
        finally:
            moved.rename(database)
    assert_consistent(load, "1")


def test_other_verbs_keep_the_promoted_version(on_version_1: Stack) -> None:
    """After a promotion, `make up` restarts nothing, and added or restarted replicas have the promoted version."""
    on_version_1.make_ok("promote", "VERSION=2")
    pids = on_version_1.pids()
    on_version_1.make_ok("up")
    assert on_version_1.pids() == pids
    on_version_1.make_ok("scale", "N=3")
    assert served(on_version_1) == ["2", "2", "2"]
    victim = psutil.Process(on_version_1.pids()["replica-1"])
    victim.kill()
    wait_until(lambda: replicas(on_version_1).get("replica-1", victim.pid) != victim.pid)
    wait_until(lambda: "yes" in on_version_1.make_ok("status").splitlines()[1])
    assert served(on_version_1) == ["2", "2", "2"]
    with Load(on_version_1.port, **LOW_RATE) as load:
        load.wait_for(300)
    assert_consistent(load, "2")
