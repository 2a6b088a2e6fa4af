"""The programs that are measured: how they are started, watched and stopped."""

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
from deploy.bench.rig import only_first_slot
from deploy.errors import CommandError
from deploy.stack.machine import _commit, _cpu
from deploy.stack.paths import ROOT

# A master with one worker; it says so when both run.
FAMILY = "(while :; do sleep 0.05; done) & echo up; wait"


@contextmanager
def started(folder: Path, script: str) -> Iterator[MeasuredProgram]:
    (folder / "log").mkdir()
    with running("the replica", ["sh", "-c", script], folder, os.environ) as one:
        yield one


def wait_up(one: MeasuredProgram) -> None:
    while "up" not in one.output.read_text():
        one.check()


def test_upstream_of_one_slot() -> None:
    """The local backend's upstream keeps its first slot, as it is, and all that is no slot."""
    whole = (ROOT / "nginx/upstream-local.conf").read_text()
    one = only_first_slot(whole)
    servers = [line.strip() for line in one.splitlines() if line.strip().startswith("server ")]
    assert servers == [
        "server unix:run/1.sock weight=100 max_fails=1 fail_timeout=1s;",
        "server unix:run/1.sock backup max_fails=0;",
    ]
    gone = set(whole.splitlines()) - set(one.splitlines())
    assert all(line.strip().startswith("server unix:run/") for line in gone)
    assert "keepalive 8192;" in one


def test_everything_is_stopped(tmp_path: Path) -> None:
    """A program is stopped with all that it started."""
    with started(tmp_path, FAMILY) as one:
        wait_up(one)
        master = psutil.Process(one.process.pid)
        family = [master, *master.children(recursive=True)]
        assert len(family) > 1
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_program_that_does_not_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not stop when told to is killed."""
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.1)
    with started(tmp_path, f"trap '' TERM; {FAMILY}") as one:
        wait_up(one)
    assert one.process.returncode == -9


def test_interrupted_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt while a program is being stopped leaves nothing of it."""

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
def test_program_that_ended(script: str, reason: str, tmp_path: Path) -> None:
    """A program that has ended is an error with its reason: our own line, else its last one."""
    with started(tmp_path, script) as one:
        one.process.wait(10)
        with pytest.raises(CommandError) as caught:
            one.check()
    assert str(caught.value) == f"the replica ended: {reason}"


def test_cpu_and_memory_of_a_family() -> None:
    """CPU counts the master's, its workers' and that of those which have ended; memory has a line a process."""
    work = "x = sum(i * i for i in range(2_000_000))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}']); print('up', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    one = Processes(process.pid)
    own = psutil.Process(process.pid).cpu_times()
    assert one.cpu_seconds() > own.user + own.system
    (memory,) = one.memory()
    assert (memory.pid, memory.is_master) == (process.pid, True)
    assert memory.pss >= memory.uss > 0
    process.communicate(b"\n", timeout=10)
    assert one.memory() == []


def test_machine(tmp_path: Path) -> None:
    """The processor's name is the kernel's where it tells one, and a folder outside of Git has no commit."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Fine CPU @ 2 GHz: fast\n")
    assert _cpu(info) == "A Fine CPU @ 2 GHz: fast"
    assert _cpu(tmp_path / "none") == os.uname().machine
    assert _commit(tmp_path) is None
