"""Tests of logging measured runs to real SQLite registries: in a folder, and in a container's volume."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.backends.docker import provider
from deploy.backends.docker.backend import DockerBackend
from deploy.backends.docker.engine import Compose
from deploy.backends.local.backend import LocalBackend
from deploy.errors import CommandError
from deploy.models.registry import record
from deploy.models.registry.mlflow_variables import MLFLOW_VARIABLES
from deploy.stack.paths import Layout
from tests.support.fake_docker import FakeDocker
from tests.support.options import options
from tests.support.stacks.containers import require_engine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    import mlflow

    from deploy.models.registry import versions  # noqa: F401

# MLflow 3.17 defines its tables in a form that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")

RUN: dict[str, Any] = {
    "name": "2x0.5/256M:1",
    "params": {"topology": "2x0.5/256M:1", "replicas": 2, "slo": "P95 < 1000 ms"},
    "metrics": [{"step": 500, "rps": 250.5, "p95_ms": 12, "null_rps": None}, {"step": 1000, "rps": 480, "p95_ms": 30}],
    "tags": {"verb": "compare", "ended": ""},
    "artifacts": {"report.md": "# Ergebnis: 5 µs\n", "steps.csv": "topology,users\n"},
}
DOCUMENT = json.dumps({"experiment": "scaling", "runs": [RUN, RUN | {"name": "1x1/512M:1"}]})


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a registry. Its address, which MLflow keeps in the process and the environment, is reset after."""
    for name, value in (MLFLOW_VARIABLES | {"MLFLOW_TRACKING_URI": "", "no_proxy": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    yield tmp_path
    mlflow.set_tracking_uri(None)


def run_program(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the program with this text on its standard input, and return its status."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return record.main()


def logged_runs(var: Path) -> list[Any]:
    """Return the runs of the experiment, oldest first."""
    client = mlflow.MlflowClient(f"sqlite:///{var}/mlflow.db")
    experiment = client.get_experiment_by_name("scaling")
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def test_runs_are_logged(var: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs are logged with parameters, metrics by step, tags and files; logging again adds further runs."""
    assert run_program(DOCUMENT, monkeypatch) == 0
    first, second = logged_runs(var)
    assert capsys.readouterr().out.split() == [first.info.run_id, second.info.run_id]
    assert (first.info.run_name, second.info.run_name) == ("2x0.5/256M:1", "1x1/512M:1")
    assert first.info.status == "FINISHED"
    assert first.data.params == {"topology": "2x0.5/256M:1", "replicas": "2", "slo": "P95 < 1000 ms"}
    assert (first.data.tags["verb"], first.data.tags["ended"]) == ("compare", "")
    assert set(first.data.metrics) == {"rps", "p95_ms"}
    history = mlflow.MlflowClient(f"sqlite:///{var}/mlflow.db").get_metric_history(first.info.run_id, "rps")
    assert [(metric.step, metric.value) for metric in history] == [(500, 250.5), (1000, 480)]
    folder = var / "mlartifacts" / first.info.run_id / "artifacts"
    assert {path.name: path.read_text() for path in folder.iterdir()} == RUN["artifacts"]
    assert run_program(DOCUMENT, monkeypatch) == 0
    assert len(logged_runs(var)) == 4


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"experiment": "a", "runs": [{}]}', '{"experiment": "a", "runs": [1]}',
     json.dumps({"experiment": "a", "runs": [RUN | {"metrics": [{"step": 500, "rps": "fast"}]}]})],
)  # fmt: skip
def test_invalid_document_logs_no_run(
    text: str, var: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid document is one line on stderr, and nothing is logged."""
    assert run_program(text, monkeypatch) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: standard input: expected a JSON document of runs, got an invalid one: ")
    assert err.count("\n") == 1
    assert list(var.iterdir()) == []


def test_unreachable_registry_error_hides_password(
    var: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error for a registry that is down is one line on stderr, without its password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:1")
    assert run_program(DOCUMENT, monkeypatch) == 1
    assert capsys.readouterr().err == "error: the registry at http://127.0.0.1:1: [Errno 111] Connection refused\n"
    assert list(var.iterdir()) == []


@pytest.mark.e2e
def test_local_backend_logs_runs_or_reports_why(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local backend logs runs to its registry, and reports the reason if it cannot."""
    monkeypatch.chdir(var)  # the backend changes the current folder, and this restores it
    backend = LocalBackend(Layout(var), options(**os.environ))
    backend.record(DOCUMENT)
    assert [run.info.run_name for run in logged_runs(var)] == ["2x0.5/256M:1", "1x1/512M:1"]
    with pytest.raises(CommandError, match=r"^no run was logged: standard input: expected a JSON document of runs"):
        backend.record("{}")


def test_failed_container_reports_its_reason(docker: FakeDocker) -> None:
    """The Docker backend logs runs in a container, and passes on the reason if that fails."""
    docker.answer("compose", "run")
    provider.record(Compose({}), DOCUMENT)
    assert docker.calls[0].arguments[5:] == [
        *provider._RUN_MODEL_SERVICE,
        "python",
        "-m",
        "deploy.models.registry.record",
    ]
    docker.answer("compose", "run", err=" Container m  Created\nerror: the registry at x: refused\n", status=1)
    with pytest.raises(CommandError, match=r"^no run was logged: the registry at x: refused$"):
        provider.record(Compose({}), DOCUMENT)


@pytest.mark.e2e
def test_container_backend_logs_large_runs_to_the_registry(tmp_path: Path) -> None:
    """A run with a file of 3 MB is logged through a container to the registry in the stack's volume."""
    require_engine()
    environ = {"COMPOSE_PROJECT_NAME": f"forkcast-test-record-{os.getpid()}"}
    compose, backend = Compose(environ), DockerBackend(Layout(tmp_path / "var"), options(**environ))
    big = RUN | {"artifacts": {"report.html": "x" * 3_000_000}}
    try:
        compose.run("build", "model")
        backend.record(json.dumps({"experiment": "scaling", "runs": [big]}))
        find = "find /var/lib/forkcast/mlartifacts -name report.html -size +2900k"
        assert len(compose.run(*provider._RUN_MODEL_SERVICE, "sh", "-c", find).split()) == 1
        with pytest.raises(CommandError, match=r"^no run was logged: standard input: expected a JSON document"):
            backend.record("{}")
    finally:
        compose.run("down", "--volumes", "--rmi", "all")
