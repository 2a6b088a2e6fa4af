"""End-to-end tests of a replica, started by `gunicorn -c gunicorn.conf.py`, whose model cannot predict."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from server.model_store.copies import Copies, Copy
from server.model_store.digest import folder_digest
from tests.support.models import saved_models
from tests.support.stacks.local import StartReplica, launch
from tests.support.waiting import wait_until

OUTDATED = "AttributeError: 'ColumnTransformer' object has no attribute '_transformer_to_input_indices'"


def refused_start(model: Path, log: Path, **settings: str) -> str:
    """Start a replica that must end by itself with status 1, and return the only line of its own that it prints."""
    replica = launch(model, log, **settings)
    assert replica.process.wait(60) == 1
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("forkcast: ")]
    assert "Traceback" not in log.read_text()
    assert "Booting worker" not in log.read_text()
    return line


@pytest.mark.parametrize("example", [True, False])
def test_outdated_model_does_not_start(tmp_path: Path, example: bool) -> None:
    """A model that loads and cannot predict ends the start with its error, both versions and what to do."""
    model = saved_models.outdated_pipeline(tmp_path / "model", example=example)
    line = refused_start(model, tmp_path / "replica.log")
    subject = "its example" if example else "rows made from its schema"
    assert line.startswith(
        f"forkcast: the model cannot predict {subject}: {OUTDATED}; it was logged with scikit-learn "
    )
    assert "scikit-learn 1.3.2, and this server has 1." in line
    assert "log it again with this server's version" in line


def test_model_that_does_not_load_names_both_versions(tmp_path: Path) -> None:
    """A model whose pickle needs a module of another version ends the start with both versions."""
    model = saved_models.outdated_pipeline(tmp_path / "model")
    (model / "model.pkl").write_bytes(b"csklearn.ensemble._gb_losses\nBinomialDeviance\n.")
    line = refused_start(model, tmp_path / "replica.log")
    assert line.startswith("forkcast: the model's file model.pkl does not load: ModuleNotFoundError: ")
    assert "it was logged with scikit-learn 1.3.2, and this server has " in line


def test_crashing_model_does_not_start(tmp_path: Path) -> None:
    """A model that crashes its process ends the start with the signal, and no process remains."""
    model = saved_models.save_pyfunc(tmp_path / "model", saved_models.Crashing())
    line = refused_start(model, tmp_path / "replica.log")
    assert line == "forkcast: the model cannot predict its example: its process ended with signal SIGABRT"


def test_refused_reload_keeps_the_previous_model(start_replica: StartReplica, tmp_path: Path) -> None:
    """A reload to a model that cannot predict keeps the previous one in service, and /health has the reason."""
    copies = Copies(tmp_path / "models")
    copies_folder = tmp_path / "models"
    copies_folder.mkdir()

    def make_current(folder: Path, version: str) -> None:
        copies.make_current(Copy(folder, "colours", version, "models:/colours@champion", folder_digest(folder)))

    make_current(saved_models.mixed_columns(tmp_path / "1"), "1")
    replica = start_replica(copies_folder / "current.json", WEB_CONCURRENCY="2")
    make_current(saved_models.outdated_pipeline(tmp_path / "2"), "2")
    replica.process.send_signal(signal.SIGHUP)
    wait_until(lambda: replica.ask("GET", "/health")[1]["reloads"] == 1)
    health = replica.ask("GET", "/health")[1]
    assert health["model"]["version"] == "1"
    assert health["refused"].startswith(f"the model cannot predict its example: {OUTDATED}; it was logged with ")
    status, answer = replica.ask("POST", "/predict", {"colour": "red", "size": 35})
    assert (status, answer["prediction"], answer["model_version"]) == (200, "large", "1")
    master = psutil.Process(replica.process.pid)
    wait_until(lambda: len(master.children()) == 2)
    assert all(child.status() != psutil.STATUS_ZOMBIE for child in master.children())
    make_current(saved_models.mixed_columns(tmp_path / "3"), "3")
    replica.process.send_signal(signal.SIGHUP)
    wait_until(lambda: replica.ask("GET", "/health")[1]["reloads"] == 2)
    health = replica.ask("GET", "/health")[1]
    assert (health["model"]["version"], "refused" in health) == ("3", False)


def test_category_that_a_made_up_example_lacks_does_not_prevent_the_start(
    start_replica: StartReplica, tmp_path: Path
) -> None:
    """A model that refuses the values of rows that were made up is served, and predicts real rows."""
    model = saved_models.save_pyfunc(tmp_path / "model", saved_models.OnlyPositive(), example=False)
    replica = start_replica(model, WEB_CONCURRENCY="1")
    assert replica.log.read_text().count("the model refuses rows made from its schema as invalid input") == 1
    assert replica.ask("POST", "/predict", {"x": 1.5})[1]["prediction"] == 1.5
