"""End-to-end tests of the local registry stack: MLflow's server on SQLite and a folder, by `make up-full`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.rollout.replica_client import request_json
from tests.support.ports import free_port
from tests.support.stacks.local import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[Stack]:
    environ = {"COVERTYPE_PATH": str(covertype_csv), "WEB_CONCURRENCY": "1", "MLFLOW_PORT": str(free_port())}
    new_stack = Stack(tmp_path_factory.mktemp("full") / "var", environ)
    try:
        new_stack.make_ok("up-full")
        yield new_stack
    finally:
        new_stack.make("down")


def _page(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.environ['MLFLOW_PORT']}"


def _champion(stack: Stack) -> str:
    target = "/api/2.0/mlflow/registered-models/alias?name=covertype&alias=champion"
    status, answer = request_json(_page(stack), "GET", target)
    assert status == 200
    return str(answer["model_version"]["version"])


def test_up_full_serves_from_its_own_registry(stack: Stack) -> None:
    """The stack serves the champion of MLflow's server, which `make status`, `stats` and `logs` show."""
    assert stack.predict()[0] == 200
    assert stack.health(1)["model"]["version"] == _champion(stack) == "1"
    output = stack.make_ok("status")
    assert _page(stack) in output
    assert "mlflow" in stack.pids()
    assert "mlflow" in stack.make_ok("stats")
    assert "registered-models" in stack.make_ok("logs", "S=mlflow")
    assert not (stack.var.parent / ".env").exists()


def test_serving_goes_on_without_mlflow(stack: Stack) -> None:
    """While MLflow does not answer, `make restart` serves the last good copy; a killed MLflow is started again."""
    pid = stack.pids()["mlflow"]
    os.kill(pid, signal.SIGSTOP)
    try:
        stack.make_ok("restart")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert stack.predict()[0] == 200
    os.kill(pid, signal.SIGKILL)
    # The processes that MLflow had started may answer for a moment longer.
    wait_until(lambda: stack.pids().get("mlflow", pid) != pid)
    wait_until(lambda: request_json(_page(stack), "GET", "/api/2.0/mlflow/registered-models/search")[0] == 200)


def test_registry_is_the_same_with_and_without_the_server(stack: Stack) -> None:
    """`make up` serves versions that MLflow's server registered, and the server knows versions trained without it."""
    stack.make_ok("down")
    stack.make_ok("up")
    assert stack.health(1)["model"]["version"] == "1"
    assert "mlflow" not in stack.pids()
    stack.make_ok("train")
    stack.make_ok("up-full")
    assert _champion(stack) == "2"
    assert stack.health(1)["model"]["version"] == "2"


def test_up_full_with_another_registry_is_refused(stack: Stack) -> None:
    """`make up-full` with the address of another registry is refused."""
    line = stack.make_error("up-full", "MLFLOW_TRACKING_URI=http://elsewhere:5000")
    assert line.startswith("error: MLFLOW_TRACKING_URI='http://elsewhere:5000' names another registry")
