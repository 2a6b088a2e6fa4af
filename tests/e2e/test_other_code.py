"""End-to-end tests of a stack whose checkout changes while it runs, as after `git pull`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from deploy.stack.code import code_mismatch
from deploy.stack.paths import ROOT
from tests.support.models import saved_models
from tests.support.stacks.local import Stack
from tests.support.stress.load import LOW_RATE, Load

PARTS = ("server", "deploy", "nginx", "locust", "gunicorn.conf.py", "Makefile")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of one replica, started from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("other-code")
    checkout = folder / "checkout"
    checkout.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, checkout / part)
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    model = saved_models.covertype_forest(folder / "model")
    environ = {"MODEL_URI": str(model), "WEB_CONCURRENCY": "1"}
    new_stack = Stack(folder / "var", environ, checkout=checkout)
    try:
        new_stack.make_ok("up")
        yield new_stack
    finally:
        new_stack.make("down")


def change_code(stack: Stack) -> None:
    """Change the code that new replicas run."""
    with (stack.checkout / "server/errors.py").open("a") as file:
        file.write("# changed\n")


def test_up_replaces_a_replica_of_other_code_without_failures(stack: Stack) -> None:
    """`make promote` is refused until `make up` has replaced the replica; Nginx stays, and no request fails."""
    with Load(stack.port, **LOW_RATE) as load:
        pids_before = stack.pids()
        stack.make_ok("up")
        assert stack.pids() == pids_before
        change_code(stack)
        assert stack.make_error("promote", "VERSION=1") == f"error: {code_mismatch('replica-1')}"
        assert stack.make_error("rollback") == f"error: {code_mismatch('replica-1')}"
        assert stack.pids() == pids_before
        stack.make_ok("up")
    pids_after = stack.pids()
    assert pids_after["replica-1"] != pids_before["replica-1"]
    assert pids_after["nginx"] == pids_before["nginx"]
    assert load.counts.answered > 0
    assert load.counts.failed == 0, load.counts.broken
    assert code_mismatch("replica-1") not in stack.make_error("promote", "VERSION=1")


def test_restart_replaces_a_replica_of_other_code_once(stack: Stack) -> None:
    """`make restart` starts a replica with the current code, which a following `make up` does not replace."""
    change_code(stack)
    stack.make_ok("restart")
    pids = stack.pids()
    stack.make_ok("up")
    assert stack.pids() == pids
