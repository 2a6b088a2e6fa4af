"""Tests of starting, checking, measuring and stopping the programs of a benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.bench import processes
from deploy.bench.processes import MeasuredProgram, Processes, running
from deploy.errors import CommandError

# A shell script of a master with one worker, which prints `up` when both run.
FAMILY = "(while :; do sleep 0.05; done) & echo up; wait"


@contextmanager
def started(folder: Path, script: str) -> Iterator[MeasuredProgram]:
    (folder / "log").mkdir()
    with running("the replica", ["sh", "-c", script], folder, os.environ) as program:
        yield program


def wait_up(program: MeasuredProgram) -> None:
    while "up" not in program.output.read_text():
        program.check()


def test_stop_ends_the_program_and_its_children(tmp_path: Path) -> None:
    """A program is stopped together with its children."""
    with started(tmp_path, FAMILY) as program:
        wait_up(program)
        master = psutil.Process(program.process.pid)
        family = [master, *master.children(recursive=True)]
        assert len(family) > 1
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_program_ignoring_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ignores SIGTERM is killed."""
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.1)
    with started(tmp_path, f"trap '' TERM; {FAMILY}") as program:
        wait_up(program)
    assert program.process.returncode == -9


def test_interrupted_stop_leaves_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt while a program is being stopped leaves no process of it running."""

    def wait(_self: object, _timeout: float | None = None) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    process = subprocess.Popen(["sh", "-c", f"trap '' TERM; {FAMILY}"], process_group=0, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        processes._stop(process)
    assert psutil.wait_procs(family, timeout=10)[1] == []
    process.stdout.close()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo forkcast: no such model >&2; echo more", "no such model"),
        ("echo one; echo two", "two"),
        ("exit 3", "it printed nothing"),
    ],
)
def test_ended_program_raises_with_its_reason(script: str, reason: str, tmp_path: Path) -> None:
    """The error for an ended program contains its reason: Forkcast's own line, otherwise the last line."""
    with started(tmp_path, script) as program:
        program.process.wait(10)
        with pytest.raises(CommandError) as caught:
            program.check()
    assert str(caught.value) == f"the replica ended: {reason}"


def test_cpu_includes_ended_children() -> None:
    """CPU seconds include children that have ended, and memory has an entry for each running process."""
    work = "x = sum(i * i for i in range(2_000_000))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}']); print('up', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    measured = Processes(process.pid)
    own = psutil.Process(process.pid).cpu_times()
    assert measured.cpu_seconds() > own.user + own.system
    (memory,) = measured.memory()
    assert (memory.pid, memory.is_master) == (process.pid, True)
    assert memory.pss >= memory.uss > 0
    process.communicate(b"\n", timeout=10)
    assert measured.memory() == []
