"""Tests of the lock that lets only one command at a time change a stack."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest

from deploy.stack.lock import locked
from deploy.stack.paths import Layout
from tests.support.waiting import wait_until


def test_second_command_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second command says that it waits, and enters only after the first one has released the lock."""
    layout, has_entered = Layout(tmp_path / "var"), Event()

    def change() -> None:
        with locked(layout):
            has_entered.set()

    second = Thread(target=change, daemon=True)
    with locked(layout):
        second.start()
        output = wait_until(lambda: capsys.readouterr().out, 10)
        assert output == "waiting for another command that changes this stack\n"
        assert not has_entered.wait(0.1)
    assert has_entered.wait(10)
    second.join(10)
