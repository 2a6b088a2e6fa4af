"""The composition root, called in this process and run as `gunicorn -c gunicorn.conf.py` in a process of its own."""

from __future__ import annotations

import gc
import os
import pickle
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
from server.metrics.folder import MetricsFolder
from server.model_store.copies import Copies, Copy
from server.model_store.digest import folder_digest
from server.settings import ROOT
from server.system import cgroup
from server.workers.balancing import ConnectionCounts
from tests.support.models.tree_folder import write_model
from tests.support.ports import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers httpx2, and warns about httpx.
    from starlette.testclient import TestClient


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tree")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def environ(tmp_path: Path, port: int, model: Path) -> dict[str, str]:
    """The environment variables with which a replica starts."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **inherited,
        "VAR_DIR": str(tmp_path / "var"),
        "MODEL_URI": str(model),
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "WEB_CONCURRENCY": "1",
    }


def start(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Gunicorn from the repository's root until it exits."""
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def assert_failed_with_one_line(gunicorn: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Assert that Gunicorn exited with status 1 and one line of error, which has ``parts``, without a traceback."""
    assert gunicorn.returncode == 1
    lines = [line for line in gunicorn.stderr.splitlines() if line.startswith("forkcast: ")]
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in gunicorn.stdout + gunicorn.stderr
    gunicorn_lines = [line for line in gunicorn.stderr.splitlines() if line not in lines]
    assert [line for line in gunicorn_lines if not re.match(r"\[.*\] \[INFO\] ", line)] == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WEB_CONCURRENCY", "0", "a whole number from 1 to 1024"),
        ("WEB_CONCURRENCY", "1025", "a whole number from 1 to 1024"),
        ("PORT", "99999", "a whole number from 1 to 65535"),
        ("ENGINE", "tensorflow", "one of auto, forest, onnx, sklearn, pyfunc"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error, critical"),
        ("MODEL_NAME", "iris/1", "a segment of a URL's path: at most 100 printable characters, without slash"),
    ],
)
def test_invalid_setting_stops_the_start(environ: dict[str, str], name: str, value: str, expected: str) -> None:
    """An invalid setting stops the start with its name, its value and what was expected."""
    assert_failed_with_one_line(start(environ | {name: value}), f"{name}={value!r}: expected {expected}")


def test_invalid_web_concurrency_stops_gunicorn(environ: dict[str, str]) -> None:
    """A WEB_CONCURRENCY that is not a number stops the start with Gunicorn's own error: Gunicorn reads it first."""
    ended = start(environ | {"WEB_CONCURRENCY": "two"})
    assert ended.returncode == 1
    assert "'two'" in ended.stderr.splitlines()[-1]


def test_missing_model_stops_the_start(environ: dict[str, str]) -> None:
    """A MODEL_URI that names no model stops the start with one line that repeats it."""
    assert_failed_with_one_line(
        start(environ | {"MODEL_URI": "/no/such/model"}), "MODEL_URI='/no/such/model'", "no file MLmodel"
    )


def test_missing_registry_stops_the_start(environ: dict[str, str]) -> None:
    """A missing registry database stops the start, and no empty database is created."""
    ended = start(environ | {"MODEL_URI": "models:/covertype@champion"})
    assert_failed_with_one_line(ended, "the registry's database", "mlflow.db does not exist")
    assert not Path(environ["VAR_DIR"], "mlflow.db").exists()


def test_model_that_cannot_predict_stops_the_start(environ: dict[str, str], model: Path) -> None:
    """A model that cannot predict stops the start before there are workers, with its own error in one line."""
    break_tree(model)
    assert_failed_with_one_line(start(environ), "the model cannot predict ", "AttributeError: ", "no attribute 'tree_'")


def test_engine_that_the_model_lacks_stops_the_start(environ: dict[str, str]) -> None:
    """An engine that is not available for the model stops the start, and the error names those that are."""
    assert_failed_with_one_line(start(environ | {"ENGINE": "onnx"}), "ENGINE='onnx'", "available: auto, sklearn")


def test_used_port_stops_the_start(environ: dict[str, str], port: int) -> None:
    """A port in use by another program stops the start with an error, after Gunicorn's own retries."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        ended = start(environ)
    assert ended.returncode != 0
    assert "in use" in ended.stderr


def break_tree(folder: Path) -> None:
    """Remove an attribute of the model in a folder that it needs to predict, and does not need to be loaded."""
    tree = pickle.loads((folder / "model.pkl").read_bytes())  # noqa: S301  (written by the test)
    del tree.tree_
    (folder / "model.pkl").write_bytes(pickle.dumps(tree))


def set_environ(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


def test_create_loads_the_model_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The factory reads the environment, loads the model and returns an app that predicts with it."""
    set_environ(monkeypatch, environ | {"REPLICA": "seven"})
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
    """Each call of the factory reads the environment again, so that a reload can change the model."""
    set_environ(monkeypatch, environ)
    create()
    monkeypatch.setenv("MODEL_URI", str(write_model(tmp_path / "other")))
    with TestClient(create()) as client:
        assert client.get("/").json()["serves"].startswith("other version ")


def test_synthetic_training_data_is_logged(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning is logged for a model that was trained on synthetic data."""
    folder = write_model(tmp_path / "made-up", metadata={"trained_on": "synthetic"})
    set_environ(monkeypatch, environ | {"MODEL_URI": str(folder)})
    create()
    assert "this model was trained on SYNTHETIC data; its predictions mean nothing" in caplog.messages


def test_failed_create_exits_with_one_line(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    """A failed start raises SystemExit with one line, which Python prints before it exits with status 1."""
    set_environ(monkeypatch, environ | {"MAX_PENDING": "many"})
    with pytest.raises(SystemExit, match=r"^forkcast: MAX_PENDING='many': expected a whole number"):
        create()


M = 1 << 20


def make_current(folder: Path, models: Path, needs: int | None) -> Path:
    """Make a model current, with the memory that it was measured to need, and return the record of it."""
    models.mkdir(parents=True)
    Copies(models).make_current(Copy(folder, "tree", "7", "models:/tree@champion", folder_digest(folder), needs=needs))
    return models / "current.json"


@pytest.fixture
def start_with_memory_limit(
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> Callable[[int | None, int | None], list[str]]:
    """A function that loads a model of measured memory needs under a memory limit, and returns what is logged."""

    def start(limit: int | None, needs: int | None) -> list[str]:
        set_environ(monkeypatch, environ | {"MODEL_URI": str(make_current(model, tmp_path / "models", needs))})
        monkeypatch.setattr(cgroup, "memory_limit", lambda: limit)
        with caplog.at_level("INFO", "server.main"):
            create()
        return caplog.messages

    return start


def test_insufficient_memory_limit_is_logged_early(
    start_with_memory_limit: Callable[[int | None, int | None], list[str]],
) -> None:
    """A memory limit below the measured needs of the model is warned of before the model is loaded."""
    warned, loaded = start_with_memory_limit(128 * M, 200 * M)
    assert warned == "memory is limited to 128M, and the model needs about 200M: expect to be killed"
    assert loaded.startswith("model loaded: tree version 7")


@pytest.mark.parametrize(("limit", "needs"), [(200 * M, 200 * M), (None, 200 * M), (128 * M, None)])
def test_sufficient_memory_limit_logs_nothing(
    start_with_memory_limit: Callable[[int | None, int | None], list[str]], limit: int | None, needs: int | None
) -> None:
    """A memory limit that suffices, or needs that were not measured, cause no warning."""
    (loaded,) = start_with_memory_limit(limit, needs)
    assert loaded.startswith("model loaded: tree version 7")


@dataclass
class Master:
    """A fake of Gunicorn's master (its Arbiter) with what the hooks use."""

    needs: int | None = 200 * M
    oom_kills: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def app(self) -> Any:
        return SimpleNamespace(wsgi=lambda: SimpleNamespace(model=SimpleNamespace(needs=self.needs)))

    @property
    def log(self) -> Any:
        return SimpleNamespace(error=lambda message, *values: self.errors.append(message % values))


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The globals of gunicorn.conf.py, run as Gunicorn runs it; the variables that it sets are restored."""
    threads = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "VECLIB_MAXIMUM")]
    for name in (*threads, "LOKY_MAX_CPU_COUNT", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 128 * M)
    folder = MetricsFolder()
    monkeypatch.setattr("server.metrics.folder.METRICS_FOLDER", folder)
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # Opening the folder replaces it.
    yield runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    folder.delete()


def worker(pid: int = 7, slot: int = 1) -> Any:
    """Return a fake worker that has two open connections."""
    counts = ConnectionCounts(4)
    assert counts.free_slot(set()) == slot
    counts.publish(slot, 2)
    return SimpleNamespace(pid=pid, slot=slot, connection_counts=counts)


def test_oom_killed_worker_is_logged_once(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """A worker that the OOM killer ended is logged once, with the memory limit and the needs of the model."""
    master = Master()
    for kills, pid in ((1, 7), (1, 8), (3, 9)):
        monkeypatch.setattr(cgroup, "oom_kills", lambda kills=kills: kills)
        hooks["child_exit"](master, worker(pid))
    reason = "was killed: out of memory at 128M; the model needs about 200M"
    assert master.errors == [f"worker 7 {reason}", f"worker 9 {reason}"]


def test_ordinary_worker_exit_is_not_logged(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """A worker that ended for another reason is not logged, and no longer counted as accepting connections."""
    monkeypatch.setattr(cgroup, "oom_kills", lambda: 5)
    master, exited = Master(oom_kills=5), worker()
    assert exited.connection_counts.workers() == 1
    hooks["child_exit"](master, exited)
    assert exited.connection_counts.workers() == 0
    assert master.errors == []


def test_oom_kill_is_logged_without_known_limit(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """An out-of-memory kill is logged even if neither the limit nor the needs of the model are known."""
    monkeypatch.setattr(cgroup, "oom_kills", lambda: 1)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: None)
    master = Master(needs=None)
    hooks["child_exit"](master, worker())
    assert master.errors == ["worker 7 was killed: out of memory"]


def test_kills_before_the_start_do_not_count(monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]) -> None:
    """Processes that the kernel killed before this master was ready are not taken for its workers."""
    monkeypatch.setattr(cgroup, "oom_kills", lambda: 4)
    master = Master()
    try:
        hooks["when_ready"](master)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    hooks["child_exit"](master, worker())
    assert master.errors == []


def prediction_and_version(answer: Any) -> tuple[str, str]:
    """Return the prediction of an answer, and the model version in its header."""
    return answer.json()["prediction"], answer.headers["x-model-version"]


@pytest.fixture
def version_7(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], model: Path, tmp_path: Path) -> None:
    """The environment of a replica whose MODEL_URI is a record of version 7."""
    record = make_current(model, tmp_path / "models", None)
    set_environ(monkeypatch, environ | {"MODEL_URI": str(record)})


@pytest.fixture
def app(version_7: None) -> ReplicaApp:  # noqa: ARG001
    """The application of a replica that has started with version 7."""
    return create()


def promote(folder: Path, models: Path, version: str = "8", uri: str = "models:/tree@champion") -> None:
    """Write a model folder and a version into the record that MODEL_URI names."""
    Copies(models).make_current(Copy(folder, "tree", version, uri, folder_digest(folder)))


def test_reload_serves_the_current_model(app: ReplicaApp, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reload returns an application of the current model; the previous one still serves its own model."""
    promote(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}), tmp_path / "models")
    with caplog.at_level("INFO", "server.main"):
        reloaded = reload(app)
    for served, version, reloads in ((app, "7", 0), (reloaded, "8", 1)):
        with TestClient(served) as client:
            assert prediction_and_version(client.post("/predict", json={"x": 1})) == ("high", version)
            health = client.get("/health").json()
        assert (health["model"]["version"], health["reloads"]) == (version, reloads)
        assert "refused" not in health
    assert [line.partition(",")[0] for line in caplog.messages] == ["model loaded: tree version 8"]


def test_reload_keeps_the_name_that_clients_use(
    version_7: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    tmp_path: Path,
) -> None:
    """After a reload to the same or to another version, clients call the model what MODEL_NAME says."""
    monkeypatch.setenv("MODEL_NAME", "hills")
    app = create()
    unchanged = reload(app)
    assert unchanged.model.engine is app.model.engine
    promote(write_model(tmp_path / "other"), tmp_path / "models")
    changed = reload(unchanged)
    promote(model, tmp_path / "models", "7")
    for served, version in ((app, "7"), (unchanged, "7"), (changed, "8"), (reload(changed), "7")):
        with TestClient(served) as client:
            described = client.get("/health").json()["model"]
            assert client.get("/v2/models/hills/ready").status_code == 200
            assert client.get("/v2/models/tree/ready").status_code == 404
        assert (described["name"], described["registered_name"], described["version"]) == ("hills", "tree", version)


def test_reload_of_same_files_registered_under_another_name_serves_that_name(
    app: ReplicaApp, model: Path, tmp_path: Path
) -> None:
    """After a reload, unchanged files of a model with another registered name are served under that name."""
    Copies(tmp_path / "models").make_current(Copy(model, "fir", "7", "models:/fir@champion", folder_digest(model)))
    reloaded = reload(app).model
    assert (reloaded.name, reloaded.registered_name) == ("fir", "fir")


def test_copy_is_named_like_its_original_folder(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that a container reads from a copy has the same name for clients as one that is read from its folder."""
    folder = write_model(tmp_path / "iris", artifact_path="churn")
    digest = folder_digest(folder)
    (tmp_path / "models").mkdir()
    Copies(tmp_path / "models").make_current(Copy(folder, "iris", digest[:12], str(folder), digest))
    names = []
    for uri in (folder, tmp_path / "models" / "current.json"):
        set_environ(monkeypatch, environ | {"MODEL_URI": str(uri)})
        names.append(create().model.name)
    assert names == ["churn", "churn"]


def test_reloads_are_counted(app: ReplicaApp) -> None:
    """Each reload has the next number, whether or not the model changed."""
    assert [app.reload.number, reload(app).reload.number, reload(reload(app)).reload.number] == [0, 1, 2]


def test_reload_keeps_an_unchanged_model_in_memory(
    app: ReplicaApp, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reload that resolves to the same model does not load it again, and reports the URI that names it now."""
    promote(model, tmp_path / "models", "7", "models:/tree@challenger")
    with caplog.at_level("INFO", "server.main"):
        reloaded = reload(app)
    assert reloaded.model.engine is app.model.engine
    assert reloaded.model.uri == "models:/tree@challenger"
    assert caplog.messages == []
    assert reloaded.reload == Reload(1)


def test_reload_of_same_files_under_new_version_serves_new_version(
    app: ReplicaApp, model: Path, tmp_path: Path
) -> None:
    """After a reload, unchanged files registered under another version are answered with that version."""
    promote(model, tmp_path / "models", "8")
    with TestClient(reload(app)) as client:
        assert prediction_and_version(client.post("/predict", json={"x": 1})) == ("high", "8")


def damage(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"no pickle")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage, "the model's file model.pkl does not load"),
        (break_tree, "the model cannot predict rows made from its schema: AttributeError: "),
    ],
)
def test_reload_keeps_previous_model_if_new_one_is_broken(
    app: ReplicaApp, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], reason: str
) -> None:
    """The error of a broken model is in the log and in /health, and the previous model stays in service."""
    folder = write_model(tmp_path / "broken")
    spoil(folder)
    promote(folder, tmp_path / "models")
    reloaded = reload(app)
    assert reloaded.model is app.model
    (logged,) = caplog.messages
    with TestClient(reloaded) as client:
        assert prediction_and_version(client.post("/predict", json={"x": 1})) == ("high", "7")
        health = client.get("/health").json()
    assert (health["model"]["version"], health["reloads"]) == ("7", 1)
    assert reason in health["refused"]
    assert logged == f"{health['refused']}; version 7 stays in service"


def test_reload_keeps_previous_model_if_record_is_missing(app: ReplicaApp, tmp_path: Path) -> None:
    """If MODEL_URI names no model any more, the previous one stays in service, and a later reload may succeed."""
    record = tmp_path / "models" / "current.json"
    record.rename(record.with_suffix(".moved"))
    reloaded = reload(app)
    assert reloaded.model is app.model
    assert f"{record} does not exist" in str(reloaded.reload.refused)
    record.with_suffix(".moved").rename(record)
    assert reload(reloaded).reload == Reload(2)


@pytest.mark.parametrize(
    "error",
    [LookupError("unexpected"), MemoryError(), RecursionError("too deep"), SystemExit("licence expired")],
)
def test_reload_raises_nothing(
    app: ReplicaApp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """An unexpected error does not end the master: it is logged with its traceback, and the previous model stays."""

    def fail(*_arguments: object) -> None:
        raise error

    promote(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}), tmp_path / "models")
    monkeypatch.setattr("server.main.load_model", fail)
    reloaded = reload(app)
    assert reloaded.model is app.model
    assert reloaded.reload == Reload(1, f"{type(error).__name__}: {error}")
    assert "Traceback" in caplog.text


@pytest.mark.usefixtures("version_7")
def test_reload_hook_frees_the_previous_app(tmp_path: Path, hooks: dict[str, Any]) -> None:
    """The master's hook replaces the application, and the previous one is freed together with its model."""
    master = SimpleNamespace(app=SimpleNamespace(callable=create()))
    references = weakref.ref(master.app.callable), weakref.ref(master.app.callable.model.engine)
    promote(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}), tmp_path / "models")
    gc.collect()
    gc.freeze()  # The hook when_ready has done so; frozen objects are never collected.
    gc.disable()  # No collection may happen by chance.
    try:
        hooks["on_reload"](master)
        assert master.app.callable.model.version == "8"
        assert [reference() for reference in references] == [None, None]
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()


def test_reload_hook_keeps_previous_model_if_reload_fails(
    app: ReplicaApp, tmp_path: Path, hooks: dict[str, Any]
) -> None:
    """After a failed reload the workers get an application of the previous model that reports the failure."""
    master = SimpleNamespace(app=SimpleNamespace(callable=app))
    (tmp_path / "models" / "current.json").unlink()
    try:
        hooks["on_reload"](master)
        assert master.app.callable is not app
        assert master.app.callable.model is app.model
        assert master.app.callable.reload.number == 1
    finally:
        gc.unfreeze()
