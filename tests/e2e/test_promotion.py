"""Another version of the model takes over, and goes back, on a local stack that is loaded all the while."""

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

from deploy.backends.local.watch import family
from deploy.models.training.form import FEATURES
from deploy.models.training.synthetic import generate
from tests.support.models import saved_models
from tests.support.models.registries import Registry, new_registry
from tests.support.stacks.local import Stack
from tests.support.stress.load import LOW_RATE, Load
from tests.support.waiting import wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
    from deploy.models.registry.pointer import Pointer, PointerState

pytestmark = pytest.mark.slow

# What each model holds beside its tree (bytes): one that is kept by mistake is more than a tenth of a replica.
BALLAST = 40_000_000
GOOD = {"1": 11, "2": 22}  # each version, and what it answers to everything
BROKEN = {
    "3": "the model cannot be served: the model's file model.pkl does not load",
    "4": "the model's files are not what was registered",
    "5": "its signature differs from the served model's: column soil_type is missing; FORCE=1 accepts it",
    "6": "the model fails to predict its own example: ValueError: X has 12 features",
    "7": "covertype version 7 was not promoted, and the previous version is served again: replica-1: ",
}
LATE = "8"  # loads in the first replica, and not in the second


class Unless:
    """Unpickled, it raises where a condition holds, and else is nothing."""

    def __init__(self, condition: str) -> None:
        self._condition = condition

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"1 / 0 if {self._condition} else None",)


def constant(path: Path, answer: int, columns: tuple[str, ...] = FEATURES) -> Path:
    """A model of these columns that answers the same to everything."""
    frame = pd.DataFrame(generate(rows=50).x, columns=list(FEATURES))[list(columns)]
    tree = DecisionTreeClassifier().fit(frame, [answer] * len(frame))
    tree.ballast = bytes(str(answer), "ascii") * (BALLAST // 2)
    return saved_models.save_sklearn(path, tree, frame)


def spoiled(folder: Path, path: Path, content: bytes) -> Path:
    """The model in a folder with another file for its estimator."""
    shutil.copytree(folder, path)
    (path / "model.pkl").write_bytes(content)
    return path


def raising(folder: Path, condition: str) -> bytes:
    """The estimator in a folder, which does not load where a condition holds."""
    tree = pickle.loads((folder / "model.pkl").read_bytes())  # noqa: S301  (written above)
    tree.ballast = Unless(condition)
    return pickle.dumps(tree)


def register_all(registry: Registry, scratch: Path) -> None:
    """Versions 1 and 2, which are good, and those that are not."""
    good = [constant(scratch / version, answer) for version, answer in GOOD.items()]
    first, narrow = good[0], DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    for folder in (*good, spoiled(first, scratch / "3", b"no pickle")):
        registry.register("covertype", folder)
    registry.register("covertype", spoiled(first, scratch / "4", b"forged"), digest="0" * 64)
    for folder in (
        constant(scratch / "5", 5, FEATURES[:-1]),
        spoiled(first, scratch / "6", pickle.dumps(narrow)),
        spoiled(first, scratch / "7", raising(first, "'REPLICA' in __import__('os').environ")),
        spoiled(first, scratch / LATE, raising(first, "__import__('os').environ.get('REPLICA') == 'replica-2'")),
    ):
        registry.register("covertype", folder)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two replicas of one worker, with a registry of good and of broken versions."""
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
def first(stack: Stack) -> Stack:
    """The stack with its two replicas and version 1, whatever the test before made of it."""
    if len(replicas(stack)) != 2:
        stack.make_ok("scale", "N=2")
    if served(stack) != ["1", "1"]:
        stack.make_ok("promote", "VERSION=1")
    assert served(stack) == ["1", "1"]
    return stack


def champion(stack: Stack) -> str:
    """Where the alias leads, as the registry's own file says."""
    with closing(sqlite3.connect(f"file:{stack.var}/mlflow.db?mode=ro", uri=True)) as database:
        ((version,),) = database.execute("SELECT version FROM registered_model_aliases WHERE alias = 'champion'")
    return str(version)


def replicas(stack: Stack) -> dict[str, int]:
    """The masters of the replicas."""
    return {name: pid for name, pid in stack.pids().items() if name.startswith("replica-")}


def served(stack: Stack) -> list[str]:
    """The version that each replica serves, as it says itself."""
    return [stack.health(slot)["model"]["version"] for slot in range(1, len(replicas(stack)) + 1)]


def held(stack: Stack) -> list[int]:
    """The memory of each replica's processes, shared pages counted once (bytes), when its old workers have gone."""

    def master_and_worker(pid: int) -> list[psutil.Process] | None:
        processes = family(pid)
        return processes if len(processes) == 2 else None

    families = [wait_until(partial(master_and_worker, pid)) for pid in replicas(stack).values()]
    return [sum(process.memory_full_info().pss for process in one) for one in families]


def assert_sound(load: Load, *versions: str) -> None:
    """No request failed, and each was answered by one of these versions, with what that one computes."""
    counts = load.counts
    assert counts.failed == 0, counts
    assert set(counts.versions) == set(versions), counts
    computed = {(version, str(GOOD.get(version, GOOD["1"]))): counts.versions[version] for version in versions}
    assert counts.predictions == computed


def test_promote_and_rollback_under_load(first: Stack) -> None:
    """Two replicas move on and back without a lost request and without memory of the version before."""
    masters = replicas(first)
    with Load(first.port, **LOW_RATE) as load:
        load.wait_for(300)
    before = held(first)
    with Load(first.port, **LOW_RATE) as load:
        load.wait_for(300)
        for verb, version in ((("promote", "VERSION=2"), "2"), (("rollback",), "1")):
            line = first.make_ok(*verb)
            assert line.startswith(f"covertype version {version} is served after ")
            # From now on nobody answers for the version before.
            other = dict(load.counts.versions)
            load.wait_for(300)
            assert load.counts.versions[version] - other.get(version, 0) >= 200
            assert served(first) == [version, version]
            assert champion(first) == version
    assert_sound(load, "1", "2")
    assert replicas(first) == masters
    for now, then in zip(held(first), before, strict=True):
        assert now <= 1.1 * then, (now, then)


def test_lone_replica_toggles_under_load(first: Stack) -> None:
    """One replica alone moves without a gap, and `make rollback`, again and again, goes to and fro."""
    first.make_ok("scale", "N=1")
    before = held(first)
    with Load(first.port, **LOW_RATE) as load:
        for version in ("2", "1"):
            load.wait_for(300)
            first.make_ok("rollback")
            assert (served(first), champion(first)) == ([version], version)
        load.wait_for(300)
    assert_sound(load, "1", "2")
    (now,), (then,) = held(first), before
    assert now <= 1.1 * then


def test_broken_versions_are_refused(first: Stack) -> None:
    """Whatever is wrong with a version is one line; the one that is served answers throughout, and stays."""
    masters = replicas(first)
    with Load(first.port, **LOW_RATE) as load:
        for version, reason in BROKEN.items():
            load.wait_for(100)
            line = first.make_error("promote", f"VERSION={version}")
            assert reason in line
            assert champion(first) == "1"
    assert_sound(load, "1")
    assert served(first) == ["1", "1"]
    assert replicas(first) == masters
    assert "the last make promote was refused: covertype version 7" in first.make_ok("status")


def test_version_that_the_second_replica_refuses(first: Stack) -> None:
    """A version that one replica has taken already is taken back from it when the next does not."""
    with Load(first.port, **LOW_RATE) as load:
        load.wait_for(100)
        line = first.make_error("promote", f"VERSION={LATE}")
        load.wait_for(100)
    assert "the previous version is served again: replica-2: the model's file model.pkl does not load" in line
    assert_sound(load, "1", LATE)
    assert (served(first), champion(first)) == (["1", "1"], "1")


def test_hangup_without_a_registry(first: Stack) -> None:
    """A master that is told to reload by hand, while the registry is gone, serves on, and says that it was."""
    database, aside = first.var / "mlflow.db", first.var / "moved.db"
    reloads = first.health(2)["reloads"]
    with Load(first.port, **LOW_RATE) as load:
        load.wait_for(100)
        database.rename(aside)
        try:
            os.kill(replicas(first)["replica-2"], signal.SIGHUP)
            wait_until(lambda: first.health(2)["reloads"] == reloads + 1)
            load.wait_for(300)
            health = first.health(2)
            assert (health["source"], health["model"]["version"]) == ("the last good copy", "1")
            assert "mlflow.db is not there" in health["stale"]
            assert f"the registry's database {database} is not there" in first.make_error("promote", "VERSION=2")
            assert not database.exists()
        finally:
            aside.rename(database)
    assert_sound(load, "1")


def test_other_verbs_keep_the_promoted_version(first: Stack) -> None:
    """After a promotion `make up` starts nothing anew, and a replica more, or one that died, has that version too."""
    first.make_ok("promote", "VERSION=2")
    before = first.pids()
    first.make_ok("up")
    assert first.pids() == before
    first.make_ok("scale", "N=3")
    assert served(first) == ["2", "2", "2"]
    victim = psutil.Process(first.pids()["replica-1"])
    victim.kill()
    wait_until(lambda: replicas(first).get("replica-1", victim.pid) != victim.pid)
    wait_until(lambda: "yes" in first.make_ok("status").splitlines()[1])
    assert served(first) == ["2", "2", "2"]
    with Load(first.port, **LOW_RATE) as load:
        load.wait_for(300)
    assert_sound(load, "2")
