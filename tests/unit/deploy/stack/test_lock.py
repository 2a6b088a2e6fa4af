"""The lock of a stack: who comes second waits until the first is done."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest

from deploy.stack.lock import locked
from deploy.stack.paths import Layout
from tests.support.waiting import wait_until


def test_second_command_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that says that it waits goes on only when the command before it has let go of the lock."""
    layout, has_entered = Layout(tmp_path / "var"), Event()

    def change() -> None:
        with locked(layout):
            has_entered.set()

    second = Thread(target=change, daemon=True)
    with locked(layout):
        second.start()
        said = wait_until(lambda: capsys.readouterr().out, 10)
        assert said == "another command is at work on this stack: waiting for it\n"
        assert not has_entered.wait(0.1)
    assert has_entered.wait(10)
    second.join(10)
