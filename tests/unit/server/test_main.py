"""The composition root, in this process and as `gunicorn -c gunicorn.conf.py` in one of its own."""

from __future__ import annotations

import gc
import os
import re
import runpy
import socket
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import values

from server.http.middleware import Reload, ReplicaApp
from server.main import create, reload
from server.metrics.folder import Folder
from server.model_store.copies import Copies, Copy
from server.model_store.digest import folder_digest
from server.settings import ROOT
from server.system import cgroup
from server.workers.balancing import Shares
from tests.support.models.tree_folder import write_model
from tests.support.ports import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have httpx2, and still takes httpx
    from starlette.testclient import TestClient


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tree")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def environ(tmp_path: Path, port: int, model: Path) -> dict[str, str]:
    """The environment of a replica that would start."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "VAR_DIR": str(tmp_path / "var"),
        "MODEL_URI": str(model),
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "WEB_CONCURRENCY": "1",
    }


def start(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Gunicorn from the repository's root until it ends by itself."""
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def assert_one_line(ended: subprocess.CompletedProcess[str], *parts: str) -> None:
    """It ended with status 1, and all it said of the reason is one line without a traceback."""
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("forkcast: ")]
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in ended.stdout + ended.stderr
    others = [line for line in ended.stderr.splitlines() if line not in lines]
    assert [line for line in others if not re.match(r"\[.*\] \[INFO\] ", line)] == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WEB_CONCURRENCY", "0", "a whole number from 1 to 1024"),
        ("WEB_CONCURRENCY", "1025", "a whole number from 1 to 1024"),
        ("PORT", "99999", "a whole number from 1 to 65535"),
        ("ENGINE", "tensorflow", "one of auto, forest, onnx, sklearn, pyfunc"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error, critical"),
    ],
)
def test_invalid_setting_stops_the_start(environ: dict[str, str], name: str, value: str, expected: str) -> None:
    """A setting that cannot be stops the start with its name, its value and what was expected."""
    assert_one_line(start(environ | {name: value}), f"{name}={value!r}: expected {expected}")


def test_invalid_web_concurrency_stops_gunicorn(environ: dict[str, str]) -> None:
    """Gunicorn reads WEB_CONCURRENCY, too, and before we do: what is no number stops the start in its words."""
    ended = start(environ | {"WEB_CONCURRENCY": "two"})
    assert ended.returncode == 1
    assert "'two'" in ended.stderr.splitlines()[-1]


def test_missing_model_stops_the_start(environ: dict[str, str]) -> None:
    """A MODEL_URI that leads nowhere stops the start with one line that names it."""
    assert_one_line(start(environ | {"MODEL_URI": "/no/such/model"}), "MODEL_URI='/no/such/model'", "no file MLmodel")


def test_missing_registry_stops_the_start(environ: dict[str, str]) -> None:
    """So does a registry that is not there, and no empty one is left behind."""
    ended = start(environ | {"MODEL_URI": "models:/covertype@champion"})
    assert_one_line(ended, "the registry's database", "mlflow.db is not there")
    assert not Path(environ["VAR_DIR"], "mlflow.db").exists()


def test_model_without_signature_stops_the_start(environ: dict[str, str], tmp_path: Path) -> None:
    """A model without a signature stops the start, and the line says how to log one."""
    folder = write_model(tmp_path / "unsigned", signature=None)
    assert_one_line(start(environ | {"MODEL_URI": str(folder)}), "the model has no signature", "infer_signature")


def test_model_without_the_engine(environ: dict[str, str]) -> None:
    """An engine that the model carries nothing for stops the start, and the line names those that it does."""
    assert_one_line(start(environ | {"ENGINE": "onnx"}), "ENGINE='onnx'", "expected auto, sklearn")


def test_used_port_stops_the_start(environ: dict[str, str], port: int) -> None:
    """A port that another program has ends the start with an error after Gunicorn's own tries."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        ended = start(environ)
    assert ended.returncode != 0
    assert "in use" in ended.stderr


def in_process(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


def test_create_loads_the_model_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The factory reads the environment, loads the model and gives an app that predicts with it."""
    in_process(monkeypatch, environ | {"REPLICA": "seven"})
    with caplog.at_level("INFO", "server.main"), TestClient(create()) as client:
        answer = client.post("/predict", json={"x": 1})
        assert client.get("/health").json()["model"]["uri"] == environ["MODEL_URI"]
    assert answer.json()["prediction"] == "high"
    assert answer.json()["confidence"] == 1
    assert answer.headers["x-served-by"] == f"seven/{os.getpid()}"
    assert any(line.startswith("model loaded: tree version ") for line in caplog.messages)
    assert "SYNTHETIC" not in caplog.text


def test_create_reads_the_environment_each_time(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path
) -> None:
    """Each call of the factory loads what the environment names then: a reload changes the model."""
    in_process(monkeypatch, environ)
    create()
    monkeypatch.setenv("MODEL_URI", str(write_model(tmp_path / "other")))
    with TestClient(create()) as client:
        assert client.get("/").json()["serves"].startswith("other version ")


def test_synthetic_training_data_is_announced(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that was trained on synthetic data is announced as such."""
    folder = write_model(tmp_path / "made-up", metadata={"trained_on": "synthetic"})
    in_process(monkeypatch, environ | {"MODEL_URI": str(folder)})
    create()
    assert "this model was trained on SYNTHETIC data; its predictions mean nothing" in caplog.messages


def test_failed_create_exits_with_one_line(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    """What stops a start is one line for SystemExit, which prints it and ends with status 1."""
    in_process(monkeypatch, environ | {"MAX_PENDING": "many"})
    with pytest.raises(SystemExit, match=r"^forkcast: MAX_PENDING='many': expected a whole number"):
        create()


M = 1 << 20


def make_current(folder: Path, models: Path, needs: int | None) -> Path:
    """The record of a model that was weighed."""
    models.mkdir(parents=True)
    Copies(models).make_current(Copy(folder, "tree", "7", "models:/tree@champion", folder_digest(folder), needs=needs))
    return models / "current.json"


@pytest.fixture
def in_little_memory(
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> Callable[[int | None, int | None], list[str]]:
    """What is logged where the memory has a limit and the model was seen to need some."""

    def start_there(limit: int | None, needs: int | None) -> list[str]:
        in_process(monkeypatch, environ | {"MODEL_URI": str(make_current(model, tmp_path / "models", needs))})
        monkeypatch.setattr(cgroup, "memory_limit", lambda: limit)
        with caplog.at_level("INFO", "server.main"):
            create()
        return caplog.messages

    return start_there


def test_insufficient_memory_limit_is_logged_early(
    in_little_memory: Callable[[int | None, int | None], list[str]],
) -> None:
    """A limit below what the model was seen to need is warned of, before the model is loaded."""
    warned, loaded = in_little_memory(128 * M, 200 * M)
    assert warned == "memory is limited to 128M, and the model needs about 200M: expect to be killed"
    assert loaded.startswith("model loaded: tree version 7")


@pytest.mark.parametrize(("limit", "needs"), [(200 * M, 200 * M), (None, 200 * M), (128 * M, None)])
def test_sufficient_memory_limit_logs_nothing(
    in_little_memory: Callable[[int | None, int | None], list[str]], limit: int | None, needs: int | None
) -> None:
    """Where it is enough, or nobody knows, nothing is said of it."""
    (loaded,) = in_little_memory(limit, needs)
    assert loaded.startswith("model loaded: tree version 7")


@dataclass
class Master:
    """Gunicorn's arbiter, as far as our hooks see it."""

    needs: int | None = 200 * M
    oom_kills: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def app(self) -> Any:
        return SimpleNamespace(wsgi=lambda: SimpleNamespace(model=SimpleNamespace(needs=self.needs)))

    @property
    def log(self) -> Any:
        return SimpleNamespace(error=lambda words, *values: self.errors.append(words % values))


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What gunicorn.conf.py defines, read as Gunicorn reads it; it sets variables and the path of this process."""
    threads = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "VECLIB_MAXIMUM")]
    for name in (*threads, "LOKY_MAX_CPU_COUNT", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 128 * M)
    own = Folder()
    monkeypatch.setattr("server.metrics.folder.FOLDER", own)
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # the folder sets another
    yield runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    own.delete()


def worker(pid: int = 7, slot: int = 1) -> Any:
    """A worker that holds two connections."""
    shares = Shares(4)
    assert shares.free_slot(set()) == slot
    shares.publish(slot, 2)
    return SimpleNamespace(pid=pid, slot=slot, shares=shares)


def test_oom_killed_worker_is_logged_once(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """A worker that was killed for its memory is told with the limit and what would have been enough; once each."""
    master = Master()
    for kills, pid in ((1, 7), (1, 8), (3, 9)):
        monkeypatch.setattr(cgroup, "oom_kills", lambda kills=kills: kills)
        hooks["child_exit"](master, worker(pid))
    words = "was killed: out of memory at 128M; the model needs about 200M"
    assert master.errors == [f"worker 7 {words}", f"worker 9 {words}"]


def test_ordinary_worker_exit_is_not_logged(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """A worker that ended otherwise is not told; in any case it counts no longer among those that accept."""
    monkeypatch.setattr(cgroup, "oom_kills", lambda: 5)
    master, ended = Master(oom_kills=5), worker()
    assert ended.shares.workers() == 1
    hooks["child_exit"](master, ended)
    assert ended.shares.workers() == 0
    assert master.errors == []


def test_oom_kill_is_logged_without_known_limit(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """Without a limit, and with a model that nobody weighed, the kill is told all the same."""
    monkeypatch.setattr(cgroup, "oom_kills", lambda: 1)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: None)
    master = Master(needs=None)
    hooks["child_exit"](master, worker())
    assert master.errors == ["worker 7 was killed: out of memory"]


def test_kills_before_the_start_do_not_count(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """What the kernel killed before this master was ready is none of its workers."""
    monkeypatch.setattr(cgroup, "oom_kills", lambda: 4)
    master = Master()
    try:
        hooks["when_ready"](master)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    hooks["child_exit"](master, worker())
    assert master.errors == []


def x_of(answer: Any) -> tuple[str, str]:
    """What a posted row was answered, and by which version."""
    return answer.json()["prediction"], answer.headers["x-model-version"]


@pytest.fixture
def seventh(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], model: Path, tmp_path: Path) -> None:
    """The environment of a replica that reads a record, which leads to version 7."""
    record = make_current(model, tmp_path / "models", None)
    in_process(monkeypatch, environ | {"MODEL_URI": str(record)})


@pytest.fixture
def edge(seventh: None) -> ReplicaApp:  # noqa: ARG001
    """The application of that replica's start."""
    return create()


def promote(folder: Path, models: Path, version: str = "8", uri: str = "models:/tree@champion") -> None:
    """Let the record lead to another model, or to the same under another version."""
    Copies(models).make_current(Copy(folder, "tree", version, uri, folder_digest(folder)))


def test_reload_serves_the_current_model(edge: ReplicaApp, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reload gives an application of the model that MODEL_URI means then; the one before answers as before."""
    promote(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}), tmp_path / "models")
    with caplog.at_level("INFO", "server.main"):
        after = reload(edge)
    for one, version, reloads in ((edge, "7", 0), (after, "8", 1)):
        with TestClient(one) as client:
            assert x_of(client.post("/predict", json={"x": 1})) == ("high", version)
            health = client.get("/health").json()
        assert (health["model"]["version"], health["reloads"]) == (version, reloads)
        assert "refused" not in health
    assert [line.partition(",")[0] for line in caplog.messages] == ["model loaded: tree version 8"]


def test_reloads_are_counted(edge: ReplicaApp) -> None:
    """Each reload says which one it was, whatever it brought."""
    assert [edge.reload.number, reload(edge).reload.number, reload(reload(edge)).reload.number] == [0, 1, 2]


def test_reload_of_the_same_model(
    edge: ReplicaApp, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same model is not loaded again: its memory is shared, and what leads to it now is told."""
    promote(model, tmp_path / "models", "7", "models:/tree@challenger")
    with caplog.at_level("INFO", "server.main"):
        after = reload(edge)
    assert after.model.engine is edge.model.engine
    assert after.model.uri == "models:/tree@challenger"
    assert caplog.messages == []
    assert after.reload == Reload(1)


def test_reload_of_the_same_files(edge: ReplicaApp, model: Path, tmp_path: Path) -> None:
    """The same files under another version are another model: their answers name it."""
    promote(model, tmp_path / "models", "8")
    with TestClient(reload(edge)) as client:
        assert x_of(client.post("/predict", json={"x": 1})) == ("high", "8")


def damaged(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"no pickle")


def unsigned(folder: Path) -> None:
    (folder / "MLmodel").write_text((folder / "MLmodel").read_text().partition("signature")[0])


@pytest.mark.parametrize(
    ("spoil", "told"), [(damaged, "the model's file model.pkl does not load"), (unsigned, "the model has no signature")]
)
def test_reload_of_a_broken_model(
    edge: ReplicaApp, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], told: str
) -> None:
    """A model that cannot be served is refused in the log and in /health, and the one before is served on."""
    folder = write_model(tmp_path / "broken")
    spoil(folder)
    promote(folder, tmp_path / "models")
    after = reload(edge)
    assert after.model is edge.model
    (logged,) = caplog.messages
    with TestClient(after) as client:
        assert x_of(client.post("/predict", json={"x": 1})) == ("high", "7")
        health = client.get("/health").json()
    assert (health["model"]["version"], health["reloads"]) == ("7", 1)
    assert told in health["refused"]
    assert logged == f"{health['refused']}; version 7 is served on"


def test_reload_without_the_model(edge: ReplicaApp, tmp_path: Path) -> None:
    """Where nothing leads to a model any longer, the one before is served on, and the next reload may find one."""
    record = tmp_path / "models" / "current.json"
    record.rename(record.with_suffix(".moved"))
    after = reload(edge)
    assert after.model is edge.model
    assert f"there is no {record}" in str(after.reload.refused)
    record.with_suffix(".moved").rename(record)
    assert reload(after).reload == Reload(2)


@pytest.mark.parametrize(
    "error",
    [LookupError("nobody thought of it"), MemoryError(), RecursionError("too deep"), SystemExit("licence expired")],
)
def test_reload_raises_nothing(
    edge: ReplicaApp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """What nobody foresaw would end the master: it is logged with its traceback, told, and the model stays."""

    def fail(*_arguments: object) -> None:
        raise error

    promote(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}), tmp_path / "models")
    monkeypatch.setattr("server.main.load_model", fail)
    after = reload(edge)
    assert after.model is edge.model
    assert after.reload == Reload(1, f"{type(error).__name__}: {error}")
    assert "Traceback" in caplog.text


@pytest.mark.usefixtures("seventh")
def test_hook_of_a_reload(tmp_path: Path, hooks: dict[str, Any]) -> None:
    """The master's hook puts the new application in the place of the old one, which it lets go, with its model."""
    master = SimpleNamespace(app=SimpleNamespace(callable=create()))
    watched = weakref.ref(master.app.callable), weakref.ref(master.app.callable.model.engine)
    promote(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}), tmp_path / "models")
    gc.collect()
    gc.freeze()  # as at the start: what is frozen is collected by nobody
    gc.disable()  # and by chance
    try:
        hooks["on_reload"](master)
        assert master.app.callable.model.version == "8"
        assert [one() for one in watched] == [None, None]
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()


def test_hook_of_a_refused_reload(edge: ReplicaApp, tmp_path: Path, hooks: dict[str, Any]) -> None:
    """Where the reload is refused, the forks get an application of the model before, which says so."""
    master = SimpleNamespace(app=SimpleNamespace(callable=edge))
    (tmp_path / "models" / "current.json").unlink()
    try:
        hooks["on_reload"](master)
        assert master.app.callable is not edge
        assert master.app.callable.model is edge.model
        assert master.app.callable.reload.number == 1
    finally:
        gc.unfreeze()
