"""A program's lines as they come."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from deploy.scaling import follow
from deploy.scaling.follow import Follower
from tests.support.waiting import is_gone, wait_until

pytestmark = pytest.mark.e2e


def program(text: str) -> list[str]:
    """One that tells its id first."""
    return [sys.executable, "-c", f"import os, signal, sys, time\nprint(os.getpid(), flush=True)\n{text}"]


def test_lines_arrive_while_the_program_runs() -> None:
    """Each line is handed on as it comes, while the program runs; with the end of its block the program ends."""
    lines: list[bytes] = []
    with Follower(program("print('one\\ntwo', flush=True)\ntime.sleep(60)"), lines.append):
        wait_until(lambda: len(lines) == 3)
    assert lines[1:] == [b"one\n", b"two\n"]
    assert is_gone(int(lines[0]))


def test_gives_way_to_others() -> None:
    """The program, and the thread that reads it, run at a lower priority; the one that started them does not."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    found: list[int] = []

    def take(line: bytes) -> None:
        found.extend([int(line), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())])

    command = [sys.executable, "-c", "import os, time; time.sleep(1); print(os.getpriority(os.PRIO_PROCESS, 0))"]
    with Follower(command, take):
        wait_until(lambda: len(found) == 2)
    assert found == [max(before, 10)] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_output_after_the_stop_signal_is_delivered() -> None:
    """What a program prints when it is asked to end is handed on too."""
    lines: list[bytes] = []
    text = "signal.signal(signal.SIGTERM, lambda *_: (print('last', flush=True), sys.exit()))\n"
    with Follower(program(f"{text}print('ready', flush=True)\ntime.sleep(60)"), lines.append):
        wait_until(lambda: len(lines) == 2)
    assert lines[2:] == [b"last\n"]


def test_early_program_end_is_not_an_error() -> None:
    """A program that ends before is no error, nor is one that complains: its complaints are not lines."""
    lines: list[bytes] = []
    with Follower(program("print('no such log', file=sys.stderr)\nsys.exit(1)"), lines.append):
        wait_until(lambda: lines and is_gone(int(lines[0])))
    assert len(lines) == 1


def test_program_ignoring_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not end when asked is killed."""
    monkeypatch.setattr(follow, "_PATIENCE", 0.2)
    lines: list[bytes] = []
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
    with Follower(program(text), lines.append):
        wait_until(lambda: len(lines) == 2)
    assert is_gone(int(lines[0]))


def test_program_runs_in_its_own_process_group() -> None:
    """Ctrl-C in our terminal does not reach it."""
    lines: list[bytes] = []
    with Follower(program("time.sleep(60)"), lines.append):
        wait_until(lambda: lines)
        assert os.getpgid(int(lines[0])) == int(lines[0]) != os.getpgid(0)


def test_stopped_by_an_error() -> None:
    """It ends with its block also where that ends with an error."""
    lines: list[bytes] = []

    def interrupted() -> None:
        with Follower(program("time.sleep(60)"), lines.append):
            wait_until(lambda: lines)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert is_gone(int(lines[0]))


def test_missing_program_raises_oserror() -> None:
    """A program that is not there is an OSError."""
    with pytest.raises(FileNotFoundError), Follower(["no-such-program-anywhere"], print):
        pass
