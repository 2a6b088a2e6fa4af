"""The registry stack without Docker: MLflow's server on SQLite and a folder, by `make up-full BACKEND=local`."""

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
    one = Stack(tmp_path_factory.mktemp("full") / "var", environ)
    try:
        one.done("up-full")
        yield one
    finally:
        one.make("down")


def _page(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.environ['MLFLOW_PORT']}"


def _champion(stack: Stack) -> str:
    question = "/api/2.0/mlflow/registered-models/alias?name=covertype&alias=champion"
    status, answer = request_json(_page(stack), "GET", question)
    assert status == 200
    return str(answer["model_version"]["version"])


def test_up_answers(stack: Stack) -> None:
    """The stack predicts with the model that MLflow's server tells of, which `make status` shows."""
    assert stack.predict()[0] == 200
    assert stack.health(1)["model"]["version"] == _champion(stack) == "1"
    told = stack.done("status")
    assert _page(stack) in told
    assert "mlflow" in stack.pids()
    assert "mlflow" in stack.done("stats")
    assert "registered-models" in stack.done("logs", "S=mlflow")
    assert not (stack.var.parent / ".env").exists()


def test_serving_goes_on_without_mlflow(stack: Stack) -> None:
    """With MLflow stopped, `make restart` serves the last good copy; killed, MLflow is started again."""
    pid = stack.pids()["mlflow"]
    os.kill(pid, signal.SIGSTOP)
    try:
        stack.done("restart")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert stack.predict()[0] == 200
    os.kill(pid, signal.SIGKILL)
    # What it had started may answer for a moment longer.
    wait_until(lambda: stack.pids().get("mlflow", pid) != pid)
    wait_until(lambda: request_json(_page(stack), "GET", "/api/2.0/mlflow/registered-models/search")[0] == 200)


def test_versions_are_there_with_and_without_the_server(stack: Stack) -> None:
    """A plain `make up` serves what was trained into the server, and the server knows what was trained without it."""
    stack.done("down")
    stack.done("up")
    assert stack.health(1)["model"]["version"] == "1"
    assert "mlflow" not in stack.pids()
    stack.done("train")
    stack.done("up-full")
    assert _champion(stack) == "2"
    assert stack.health(1)["model"]["version"] == "2"


def test_another_registry_is_refused(stack: Stack) -> None:
    """Another registry, and the stack's own one, are not both to be had."""
    told = stack.refused("up-full", "MLFLOW_TRACKING_URI=http://elsewhere:5000")
    assert told.startswith("error: MLFLOW_TRACKING_URI='http://elsewhere:5000' names another registry")
