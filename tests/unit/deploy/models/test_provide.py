"""The model that replicas without a registry serve: brought, weighed and made current, with real tiny models."""

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
from deploy.models.weigh import weigh
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
    """The environment of a container that brings a model of the host."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "VAR_DIR": str(tmp_path / "var"), "MODEL_URI": str(model)}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "var" / "models" / "current.json"


def write_other(folder: Path, estimator: Any, **changes: Any) -> Path:
    """The same, but with another estimator."""
    write_model(folder, **changes)
    (folder / "model.pkl").write_bytes(pickle.dumps(estimator))
    return folder


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as its container runs it."""
    command = [sys.executable, "-m", "deploy.models.provide", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_model_of_a_folder(environ: dict[str, str], model: Path, record: Path, tmp_path: Path) -> None:
    """A model's folder is copied to where every replica sees it, and is current with the memory that it needs."""
    copy = provide(ModelOptions.read(environ))
    digest = folder_digest(model)
    home = tmp_path / "var" / "models" / digest / "model"
    assert copy == Copy(home, "tree", digest[:12], str(model), digest, needs=copy.needs)
    assert folder_digest(home) == digest
    assert Copy.recorded(record) == copy
    assert copy.needs is not None
    assert 20 * M < copy.needs < 1024 * M
    assert {path.name for path in (tmp_path / "var" / "models").iterdir()} == {".lock", digest, "current.json"}


def test_replica_finds_it(environ: dict[str, str], model: Path, record: Path, tmp_path: Path) -> None:
    """A replica that is given the record serves that copy, though it sees neither the folder nor a registry."""
    copy = provide(ModelOptions.read(environ))
    model.rename(tmp_path / "away")
    assert resolve(Settings.from_env({"VAR_DIR": str(tmp_path / "elsewhere"), "MODEL_URI": str(record)})) == copy


def test_providing_the_same_model_writes_nothing(environ: dict[str, str], record: Path) -> None:
    """The same model, brought again, is the same copy, and is not written a second time."""
    copy = provide(ModelOptions.read(environ))
    before = copy.model_folder.stat().st_ino, (copy.model_folder / "MLmodel").stat().st_mtime_ns
    again = provide(ModelOptions.read(environ))
    assert replace(again, needs=copy.needs) == copy
    assert (again.model_folder.stat().st_ino, (again.model_folder / "MLmodel").stat().st_mtime_ns) == before
    assert Copy.recorded(record) == again


def test_damaged_copy_is_replaced(environ: dict[str, str], model: Path) -> None:
    """A copy that was damaged meanwhile is replaced by a good one."""
    copy = provide(ModelOptions.read(environ))
    (copy.model_folder / "model.pkl").write_bytes(b"damaged")
    assert (
        provide(ModelOptions.read(environ)).digest
        == copy.digest
        == folder_digest(copy.model_folder)
        == folder_digest(model)
    )


def test_new_model_becomes_current_and_old_copy_stays(environ: dict[str, str], record: Path, tmp_path: Path) -> None:
    """Another model becomes current; the one before stays, for the replicas that serve it still."""
    first = provide(ModelOptions.read(environ))
    other = write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"})
    second = provide(ModelOptions.read(environ | {"MODEL_URI": str(other)}))
    assert Copy.recorded(record) == second
    assert second.digest != first.digest
    assert folder_digest(first.model_folder) == first.digest


@pytest.mark.parametrize("fault", ["unsigned", "broken", "engine", "missing"])
def test_unservable_model_keeps_the_current_copy(
    environ: dict[str, str], record: Path, tmp_path: Path, fault: str
) -> None:
    """A model that no replica could serve is refused in one line, and what is current stays what it was."""
    provide(ModelOptions.read(environ))
    before = record.read_bytes()
    other = tmp_path / "other"
    match fault:
        case "unsigned":
            write_model(other, signature=None)
            told = "the model cannot be served: the model has no signature"
        case "broken":
            (write_model(other) / "model.pkl").write_bytes(b"no pickle")
            told = "the model cannot be served: "
        case "engine":
            write_model(other)
            environ = environ | {"ENGINE": "onnx"}
            told = "the model cannot be served: ENGINE='onnx'"
        case _:
            told = f"MODEL_URI={str(other)!r}: there is no MLflow model in that folder"
    with pytest.raises((CommandError, ModelError)) as caught:
        provide(ModelOptions.read(environ | {"MODEL_URI": str(other)}))
    assert str(caught.value).startswith(told)
    assert len(str(caught.value)) > len("the model cannot be served: ")
    assert "\n" not in str(caught.value)
    assert record.read_bytes() == before


def test_model_failing_its_example_is_still_provided(environ: dict[str, str], record: Path, tmp_path: Path) -> None:
    """A model that cannot predict its own example is brought all the same: the server serves it."""
    other = write_other(tmp_path / "other", DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 1.0]], [0, 1]))
    copy = provide(ModelOptions.read(environ | {"MODEL_URI": str(other)}))
    assert Copy.recorded(record) == copy
    assert copy.needs is not None
    assert copy.needs > 20 * M


def test_model_is_taken_back(environ: dict[str, str], record: Path, tmp_path: Path) -> None:
    """The command takes its last change back, without a word and whatever the model is that is asked for now."""
    first = provide(ModelOptions.read(environ))
    second = environ | {"MODEL_URI": str(write_model(tmp_path / "other", metadata={"trained_on": "file: rows.csv"}))}
    provide(ModelOptions.read(second))
    assert Copy.recorded(record) != first
    ran = run(second | {"MODEL_URI": "/no/such/model"}, "--undo")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert Copy.recorded(record) == first


def test_command_prints_current_model_and_required_memory(environ: dict[str, str], model: Path, record: Path) -> None:
    """The command tells in one line what is current, and what it needs."""
    ran = run(environ)
    assert (ran.returncode, ran.stderr) == (0, "")
    needs = math.ceil((Copy.recorded(record).needs or 0) / M)
    version = folder_digest(model)[:12]
    assert ran.stdout == f"tree version {version} is ready to be served; it needs about {needs}M of memory\n"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("MODEL_URI", "/no/such/model", "MODEL_URI='/no/such/model': there is no MLflow model"),
        ("MODEL_URI", "models:/tiny/1", "the registry's database "),
        ("ENGINE", "onnx", "the model cannot be served: ENGINE='onnx'"),
        ("ENGINE", "tensorflow", "ENGINE='tensorflow': expected one of"),
    ],
)
def test_failed_command_is_one_line_with_status_1(
    environ: dict[str, str], record: Path, variable: str, value: str, told: str
) -> None:
    """What cannot be brought is one line on standard error, and status 1."""
    ran = run(environ | {variable: value})
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {told}")
    assert ran.stderr.count("\n") == 1
    assert not record.exists()


def test_unwritable_volume_is_one_line_with_status_1(environ: dict[str, str], tmp_path: Path) -> None:
    """So is a place where no copy can be kept."""
    (tmp_path / "var").touch()
    ran = run(environ)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: cannot keep a copy of the model: ")
    assert ran.stderr.count("\n") == 1


def test_unreachable_registry_provides_the_last_good_copy(
    environ: dict[str, str], model: Path, record: Path, tmp_path: Path
) -> None:
    """Where the registry is away, the last good copy is current, and the command says that it is one."""
    uri, tracking_uri = "models:/tiny@champion", f"sqlite:///{tmp_path}/gone.db"
    copies = Copies(tmp_path / "var" / "models")
    with copies.aside() as aside:
        model.rename(aside / "model")
        digest = folder_digest(aside / "model")
        copies.add(aside / "model", digest)
    copies.record(Copy(copies.path(digest), "tiny", "7", uri, digest), tracking_uri)
    ran = run(environ | {"MODEL_URI": uri, "MLFLOW_TRACKING_URI": tracking_uri})
    assert ran.returncode == 0, ran.stderr
    why = f"the registry's database {tmp_path}/gone.db is not there"
    assert ran.stdout.startswith("tiny version 7 is ready to be served; ")
    assert ran.stdout.endswith(f"; it is the last good copy: {why}\n")
    assert Copy.recorded(record).stale == why


def test_weight_is_the_models(environ: dict[str, str], model: Path, record: Path, tmp_path: Path) -> None:
    """A model that holds more weighs more, by about as much."""
    heavy = DecisionTreeClassifier().fit([[0.0], [1.0]], ["low", "high"])
    heavy.ballast = b"x" * BALLAST
    weights = []
    for folder in (model, write_other(tmp_path / "heavy", heavy)):
        assert run(environ | {"MODEL_URI": str(folder)}).returncode == 0
        weights.append(Copy.recorded(record).needs or 0)
    assert weights[1] - weights[0] > BALLAST * 3 / 4


def test_weight_is_all_that_is_printed_last(environ: dict[str, str], model: Path) -> None:
    """The program prints bytes as JSON, for whoever weighs by hand."""
    document = json.dumps(Copy(model, "tree", "1", "", "").to_json())
    command = [sys.executable, "-m", "deploy.models.weigh", document]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60)
    weight = json.loads(ran.stdout)
    assert weight["needs"] > 20 * M
    assert weight["needs"] > weight["model"] > weight["worker"] > 0
    assert weight["fault"] is None


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]), None),
        (DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 1.0]], [0, 1]), "ValueError: X has 1 features, but "),
    ],
)
def test_fault_of_a_model(environ: dict[str, str], tmp_path: Path, estimator: object, told: str | None) -> None:
    """Why a model does not predict its example is told in one line with its weight; one that does has no fault."""
    fault = weigh(Copy(write_other(tmp_path / "other", estimator), "tree", "1", "", ""), environ).fault
    assert fault is None if told is None else str(fault).startswith(told)
    assert "\n" not in str(fault)


def test_model_killing_its_process_is_refused(environ: dict[str, str], model: Path, tmp_path: Path) -> None:
    """A model that takes its process with it when it predicts is not served: workers would be forked for ever."""
    killing = "import os, sklearn.tree as t; t.DecisionTreeClassifier.predict_proba = lambda *_: os._exit(9)"
    (tmp_path / "sitecustomize.py").write_text(killing)
    told = "^the model cannot be served: the process that predicted its own example ended with status 9$"
    with pytest.raises(CommandError, match=told):
        weigh(Copy(model, "tree", "1", "", ""), environ | {"PYTHONPATH": str(tmp_path)})


def test_weight_has_none_of_the_parents(environ: dict[str, str], model: Path) -> None:
    """What the process that asks holds itself is no part of the figure."""
    copy = Copy(model, "tree", "1", "", "")
    before = weigh(copy, environ).needs
    ballast = b"x" * (4 * BALLAST)
    assert weigh(copy, environ).needs - before < len(ballast) / 2


def test_silent_crash_while_measuring_reports_status(environ: dict[str, str], model: Path, tmp_path: Path) -> None:
    """A model that kills its process without a word is told by the status."""
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(9)")
    with pytest.raises(CommandError, match=r"^the model cannot be served: status 9$"):
        weigh(Copy(model, "tree", "1", "", ""), environ | {"PYTHONPATH": str(tmp_path)})


class Chatty:
    """A model that prints while it is loaded and while it predicts."""

    classes_ = ("low", "high")

    def __setstate__(self, state: dict[str, Any]) -> None:
        print("loaded", flush=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"a": 1}

    def predict(self, rows: Any) -> np.ndarray[Any, Any]:
        print("predicted", flush=True)
        return np.array(["low"] * len(rows))


def test_model_output_does_not_corrupt_measurements(environ: dict[str, str], tmp_path: Path) -> None:
    """What a model prints does not get into the figures."""
    folder = write_other(tmp_path / "chatty", Chatty())
    weight = weigh(Copy(folder, "chatty", "1", "", ""), environ | {"PYTHONPATH": str(ROOT)})
    assert weight.fault is None
    assert weight.needs > 20 * M
