"""Tests of ``deploy.models.provide`` and of the measurement of memory, with real tiny models."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from deploy.errors import CommandError
from deploy.models.provide import provide
from deploy.models.weigh import measure
from deploy.options import ModelOptions
from server.errors import ModelError
from server.model_store.copies import Copies, Copy
from server.model_store.digest import folder_digest
from server.model_store.resolve import resolve
from server.settings import ROOT, Settings
from tests.support.models.tree_folder import write_model

M = 1 << 20
BALLAST = 64 * M


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tree")


@pytest.fixture
def environ(tmp_path: Path, model: Path) -> dict[str, str]:
    """The environment of a container that provides a model from a folder of the host."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**inherited, "VAR_DIR": str(tmp_path / "var"), "MODEL_URI": str(model)}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "var" / "models" / "current.json"


def write_estimator(folder: Path, estimator: Any, **changes: Any) -> Path:
    """Write a model to the folder whose pickle is ``estimator``."""
    write_model(folder, **changes)
    (folder / "model.pkl").write_bytes(pickle.dumps(estimator))
    return folder


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its container does."""
    command = [sys.executable, "-m", "deploy.models.provide", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_model_folder_is_copied_and_made_current(
    environ: dict[str, str], model: Path, record: Path, tmp_path: Path
) -> None:
    """A model's folder is copied into the model store, and current.json names the copy and the memory it needs."""
    copy = provide(ModelOptions.read(environ))
    digest = folder_digest(model)
    stored_folder = tmp_path / "var" / "models" / digest / "model"
    assert copy == Copy(stored_folder, "tree", digest[:12], str(model), digest, needs=copy.needs)
    assert folder_digest(stored_folder) == digest
    assert Copy.from_record(record) == copy
    assert copy.needs is not None
    assert 20 * M < copy.needs < 1024 * M
    assert {path.name for path in (tmp_path / "var" / "models").iterdir()} == {".lock", digest, "current.json"}


def test_replica_resolves_the_current_copy(environ: dict[str, str], model: Path, record: Path, tmp_path: Path) -> None:
    """A replica whose MODEL_URI is current.json serves that copy without the original folder or a registry."""
    copy = provide(ModelOptions.read(environ))
    model.rename(tmp_path / "away")
    assert resolve(Settings.from_env({"VAR_DIR": str(tmp_path / "elsewhere"), "MODEL_URI": str(record)})) == copy


def test_providing_the_same_model_writes_nothing(environ: dict[str, str], record: Path) -> None:
    """Providing the same model again returns the same copy without writing its files."""
    first = provide(ModelOptions.read(environ))
    stamps = first.model_folder.stat().st_ino, (first.model_folder / "MLmodel").stat().st_mtime_ns
    second = provide(ModelOptions.read(environ))
    assert replace(second, needs=first.needs) == first
    assert (second.model_folder.stat().st_ino, (second.model_folder / "MLmodel").stat().st_mtime_ns) == stamps
    assert Copy.from_record(record) == second


def test_damaged_copy_is_replaced(environ: dict[str, str], model: Path) -> None:
    """A damaged copy in the model store is replaced by a good one."""
    copy = provide(ModelOptions.read(environ))
    (copy.model_folder / "model.pkl").write_bytes(b"damaged")
    assert (
        provide(ModelOptions.read(environ)).digest
        == copy.digest
        == folder_digest(copy.model_folder)
        == folder_digest(model)
    )


def test_new_model_becomes_current_and_old_copy_stays(environ: dict[str, str], record: Path, tmp_path: Path) -> None:
    """A new model becomes current, and the old copy stays for the replicas that still serve it."""
    first = provide(ModelOptions.read(environ))
    other_model = write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"})
    second = provide(ModelOptions.read(environ | {"MODEL_URI": str(other_model)}))
    assert Copy.from_record(record) == second
    assert second.digest != first.digest
    assert folder_digest(first.model_folder) == first.digest


@pytest.mark.parametrize("fault", ["broken", "columns", "engine", "missing"])
def test_unservable_model_keeps_the_current_copy(
    environ: dict[str, str], record: Path, tmp_path: Path, fault: str
) -> None:
    """A model that no replica could serve is refused in one line, and current.json does not change."""
    provide(ModelOptions.read(environ))
    old_record = record.read_bytes()
    other_model = tmp_path / "other"
    match fault:
        case "broken":
            (write_model(other_model) / "model.pkl").write_bytes(b"no pickle")
            message = "the model cannot be served: "
        case "columns":
            two_columns = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 1.0]], [0, 1])
            write_estimator(other_model, two_columns)
            message = (
                "the model cannot be served: the model cannot predict rows made from its schema: ValueError: X has "
            )
        case "engine":
            write_model(other_model)
            environ = environ | {"ENGINE": "onnx"}
            message = "the model cannot be served: ENGINE='onnx'"
        case _:
            message = f"MODEL_URI={str(other_model)!r}: there is no MLflow model in that folder"
    with pytest.raises((CommandError, ModelError)) as caught:
        provide(ModelOptions.read(environ | {"MODEL_URI": str(other_model)}))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) > len("the model cannot be served: ")
    assert "\n" not in str(caught.value)
    assert record.read_bytes() == old_record


class Refusing:
    """A model that refuses 0, the value that an example made up from its columns has."""

    def predict(self, rows: Any) -> np.ndarray[Any, Any]:
        if not rows.all():
            raise ValueError("zero")
        return np.ones(len(rows))


def test_model_that_refuses_a_made_up_example_is_provided(
    environ: dict[str, str], record: Path, tmp_path: Path
) -> None:
    """A model without an example is provided if it refuses the values of a row that was made up."""
    environ |= {"MODEL_URI": str(write_estimator(tmp_path / "other", Refusing())), "PYTHONPATH": str(ROOT)}
    copy = provide(ModelOptions.read(environ))
    assert Copy.from_record(record) == copy
    assert copy.needs is not None
    assert copy.needs > 20 * M


def test_undo_restores_the_previous_model(environ: dict[str, str], record: Path, tmp_path: Path) -> None:
    """``--undo`` makes the previous model current without any output, whatever MODEL_URI is now."""
    first = provide(ModelOptions.read(environ))
    second = environ | {"MODEL_URI": str(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}))}
    provide(ModelOptions.read(second))
    assert Copy.from_record(record) != first
    completed = run(second | {"MODEL_URI": "/no/such/model"}, "--undo")
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")
    assert Copy.from_record(record) == first


def test_command_prints_current_model_and_required_memory(environ: dict[str, str], model: Path, record: Path) -> None:
    """The command prints one line with the current model and the memory that it needs."""
    completed = run(environ)
    assert (completed.returncode, completed.stderr) == (0, "")
    needs = math.ceil((Copy.from_record(record).needs or 0) / M)
    version = folder_digest(model)[:12]
    assert completed.stdout == f"tree version {version} is ready to be served; it needs about {needs}M of memory\n"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MODEL_URI", "/no/such/model", "MODEL_URI='/no/such/model': there is no MLflow model"),
        ("MODEL_URI", "models:/tiny/1", "the registry's database "),
        ("ENGINE", "onnx", "the model cannot be served: ENGINE='onnx'"),
        ("ENGINE", "tensorflow", "ENGINE='tensorflow': expected one of"),
    ],
)
def test_failed_command_is_one_line_with_status_1(
    environ: dict[str, str], record: Path, variable: str, value: str, message: str
) -> None:
    """A model that cannot be provided is one line on standard error, and status 1."""
    completed = run(environ | {variable: value})
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr.startswith(f"error: {message}")
    assert completed.stderr.count("\n") == 1
    assert not record.exists()


def test_unwritable_volume_is_one_line_with_status_1(environ: dict[str, str], tmp_path: Path) -> None:
    """A VAR_DIR that cannot hold a copy is one line on standard error, and status 1."""
    (tmp_path / "var").touch()
    completed = run(environ)
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr.startswith("error: cannot keep a copy of the model: ")
    assert completed.stderr.count("\n") == 1


def test_unreachable_registry_provides_the_last_good_copy(
    environ: dict[str, str], model: Path, record: Path, tmp_path: Path
) -> None:
    """If the registry is unreachable, the last good copy becomes current, and the command says so."""
    uri, tracking_uri = "models:/tiny@champion", f"sqlite:///{tmp_path}/gone.db"
    copies = Copies(tmp_path / "var" / "models")
    with copies.staging_folder() as staging:
        model.rename(staging / "model")
        digest = folder_digest(staging / "model")
        copies.add(staging / "model", digest)
    copies.record(Copy(copies.path(digest), "tiny", "7", uri, digest), tracking_uri)
    completed = run(environ | {"MODEL_URI": uri, "MLFLOW_TRACKING_URI": tracking_uri})
    assert completed.returncode == 0, completed.stderr
    reason = f"the registry's database {tmp_path}/gone.db does not exist"
    assert completed.stdout.startswith("tiny version 7 is ready to be served; ")
    assert completed.stdout.endswith(f"; it is the last good copy: {reason}\n")
    assert Copy.from_record(record).stale == reason


def test_measured_memory_grows_with_the_model(
    environ: dict[str, str], model: Path, record: Path, tmp_path: Path
) -> None:
    """A model that holds more bytes needs about that much more memory."""
    heavy = DecisionTreeClassifier().fit([[0.0], [1.0]], ["low", "high"])
    heavy.ballast = b"x" * BALLAST
    needs = []
    for folder in (model, write_estimator(tmp_path / "heavy", heavy)):
        assert run(environ | {"MODEL_URI": str(folder)}).returncode == 0
        needs.append(Copy.from_record(record).needs or 0)
    assert needs[1] - needs[0] > BALLAST * 3 / 4


def test_program_prints_the_measurement_as_json(environ: dict[str, str], model: Path) -> None:
    """The program prints only the measurement, in bytes, as one JSON document."""
    document = json.dumps(Copy(model, "tree", "1", "", "").to_json())
    command = [sys.executable, "-m", "deploy.models.weigh", document]
    completed = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60)
    measurement = json.loads(completed.stdout)
    assert measurement["needs"] > 20 * M
    assert measurement["needs"] > measurement["model"] > measurement["worker"] > 0


def test_model_killing_its_process_is_refused(environ: dict[str, str], model: Path, tmp_path: Path) -> None:
    """A model that kills its process when it predicts is refused, because its workers would be restarted forever."""
    killing = "import os, sklearn.tree as t; t.DecisionTreeClassifier.predict_proba = lambda *_: os._exit(9)"
    (tmp_path / "sitecustomize.py").write_text(killing)
    message = "^the model cannot be served: the model cannot predict .*: its process ended with status 9$"
    with pytest.raises(CommandError, match=message):
        measure(Copy(model, "tree", "1", "", ""), environ | {"PYTHONPATH": str(tmp_path)})


def test_measurement_excludes_the_calling_process(environ: dict[str, str], model: Path) -> None:
    """The memory of the process that calls ``measure`` is not part of the measurement."""
    copy = Copy(model, "tree", "1", "", "")
    needs = measure(copy, environ).needs
    ballast = b"x" * (4 * BALLAST)
    assert measure(copy, environ).needs - needs < len(ballast) / 2


@pytest.mark.parametrize(
    ("crash", "ending"),
    [
        ("os._exit(9)", "status 9"),
        ("print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)", "signal SIGSEGV"),
        ("os.kill(os.getpid(), 40)", "signal 40"),
    ],
)
def test_crash_while_measuring_reports_status_or_signal(
    environ: dict[str, str], model: Path, tmp_path: Path, crash: str, ending: str
) -> None:
    """If the measuring process ends without a message of its own, the error has its exit status or the signal."""
    (tmp_path / "sitecustomize.py").write_text(f"import os, sys; {crash}")
    with pytest.raises(CommandError, match=rf"^the model cannot be served: its process ended with {ending}$"):
        measure(Copy(model, "tree", "1", "", ""), environ | {"PYTHONPATH": str(tmp_path)})


class Chatty:
    """A model that prints text when it is loaded and when it predicts."""

    classes_ = ("low", "high")

    def __setstate__(self, state: dict[str, Any]) -> None:
        print("loaded", flush=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"a": 1}

    def predict(self, rows: Any) -> np.ndarray[Any, Any]:
        print("predicted", flush=True)
        return np.array(["low"] * len(rows))


def test_model_output_does_not_corrupt_measurements(environ: dict[str, str], tmp_path: Path) -> None:
    """Text that a model prints is kept out of the JSON document."""
    folder = write_estimator(tmp_path / "chatty", Chatty())
    measurement = measure(Copy(folder, "chatty", "1", "", ""), environ | {"PYTHONPATH": str(ROOT)})
    assert measurement.needs > 20 * M
