"""An end-to-end test of the stack in containers on a simulated macOS host, with a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.stack.paths import ROOT
from tests.support import macos
from tests.support.models import saved_models
from tests.support.stacks.containers import ContainerStack, require_engine


@pytest.fixture
def stack(tmp_path: Path) -> ContainerStack:
    """A stack whose verbs run on simulated macOS, in a checkout behind a link such as macOS's /tmp."""
    require_engine()
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    new_stack = ContainerStack(tmp_path / "var", checkout=link)
    model = saved_models.covertype_forest(tmp_path / "model")
    macos_settings = {"PYTHONPATH": str(macos.PROGRAMS), "BACKEND": "auto", "PWD": str(link)}
    new_stack.environ = new_stack.project_settings("macos", MODEL_URI=model) | macos_settings
    return new_stack


def test_verbs_work_on_macos(stack: ContainerStack) -> None:
    """`up`, `scale`, `stats` and `down` work on a real engine; local processes are refused in one line."""
    assert "local processes need Linux" in stack.make_error("up", "BACKEND=local")
    try:
        assert "backend: docker, since engine " in stack.make_ok("up")
        assert stack.predict()[0] == 200
        assert "2 replica(s) answer" in stack.make_ok("scale", "N=2")
        assert len(stack.containers("server")) == 2
        assert f"{stack.project}-server-2" in stack.make_ok("stats")
        stack.make_ok("down")
        assert stack.containers("server") == []
    finally:
        stack.make("clean", "YES=1")
    assert stack.leftovers() == []
