"""Tests of reading a program's lines while it runs."""

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
    """Return the code of a program that prints its process id first."""
    return [sys.executable, "-c", f"import os, signal, sys, time\nprint(os.getpid(), flush=True)\n{text}"]


def test_lines_arrive_while_the_program_runs() -> None:
    """Each line arrives while the program runs, and the program ends with the block."""
    lines: list[bytes] = []
    with Follower(program("print('one\\ntwo', flush=True)\ntime.sleep(60)"), lines.append):
        wait_until(lambda: len(lines) == 3)
    assert lines[1:] == [b"one\n", b"two\n"]
    assert is_gone(int(lines[0]))


def test_program_runs_at_a_lower_priority() -> None:
    """The program and the reading thread run at a lower priority than the process that started them."""
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    observed: list[int] = []

    def take(line: bytes) -> None:
        observed.extend([int(line), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())])

    command = [sys.executable, "-c", "import os, time; time.sleep(1); print(os.getpriority(os.PRIO_PROCESS, 0))"]
    with Follower(command, take):
        wait_until(lambda: len(observed) == 2)
    assert observed == [max(priority, 10)] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == priority


def test_output_after_the_stop_signal_is_delivered() -> None:
    """Lines that a program prints after the stop signal are delivered."""
    lines: list[bytes] = []
    text = "signal.signal(signal.SIGTERM, lambda *_: (print('last', flush=True), sys.exit()))\n"
    with Follower(program(f"{text}print('ready', flush=True)\ntime.sleep(60)"), lines.append):
        wait_until(lambda: len(lines) == 2)
    assert lines[2:] == [b"last\n"]


def test_early_program_end_is_not_an_error() -> None:
    """A program that ends early is no error, and its output on stderr is not among the lines."""
    lines: list[bytes] = []
    with Follower(program("print('no such log', file=sys.stderr)\nsys.exit(1)"), lines.append):
        wait_until(lambda: lines and is_gone(int(lines[0])))
    assert len(lines) == 1


def test_program_ignoring_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ignores SIGTERM is killed."""
    monkeypatch.setattr(follow, "_PATIENCE", 0.2)
    lines: list[bytes] = []
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
    with Follower(program(text), lines.append):
        wait_until(lambda: len(lines) == 2)
    assert is_gone(int(lines[0]))


def test_program_runs_in_its_own_process_group() -> None:
    """Ctrl-C in the terminal does not reach the program."""
    lines: list[bytes] = []
    with Follower(program("time.sleep(60)"), lines.append):
        wait_until(lambda: lines)
        assert os.getpgid(int(lines[0])) == int(lines[0]) != os.getpgid(0)


def test_program_ends_when_the_block_fails() -> None:
    """The program also ends if the block ends with an error."""
    lines: list[bytes] = []

    def interrupted() -> None:
        with Follower(program("time.sleep(60)"), lines.append):
            wait_until(lambda: lines)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert is_gone(int(lines[0]))


def test_missing_program_raises_oserror() -> None:
    """A missing program raises OSError."""
    with pytest.raises(FileNotFoundError), Follower(["no-such-program-anywhere"], print):
        pass
