"""Programs that a benchmark starts, and the CPU time and memory of a master process and its workers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.errors import CommandError, logged_reason

# The time between SIGTERM and SIGKILL.
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class MeasuredProgram:
    """A program under measurement, and the file with its output."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def check(self) -> None:
        """Check that the program still runs.

        Raises:
            CommandError: it has ended; the message contains the reason from its output.
        """
        if self.process.poll() is not None:
            reason = logged_reason(self.output.read_text(errors="replace"))
            raise CommandError(f"{self.name} ended: {reason}")


@contextmanager
def running(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[MeasuredProgram]:
    """Run a program in ``folder`` for the body of the ``with`` statement.

    It has a process group, so that Ctrl-C does not reach it and its children can be killed with it.
    """
    output = folder / "log" / f"{name.replace(' ', '-')}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
        )
    try:
        yield MeasuredProgram(name, process, output)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.terminate()
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):  # the program and its children have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a process in bytes: ``pss`` divides shared pages among their processes, ``uss`` excludes them."""

    pid: int
    is_master: bool
    pss: int
    uss: int


class Processes:
    """A master process and its descendants, listed anew at each call."""

    def __init__(self, master: int) -> None:
        self._master = psutil.Process(master)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes so far, including children that have ended."""
        total = 0.0
        for process in self._all():
            with suppress(psutil.Error):  # the process has ended
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory(self) -> list[Memory]:
        """Return the memory of each process, the master first."""
        result = []
        for process in self._all():
            with suppress(psutil.Error):
                usage = process.memory_full_info()
                result.append(Memory(process.pid, process.pid == self._master.pid, usage.pss, usage.uss))
        return result

    def _all(self) -> Iterator[psutil.Process]:
        yield self._master
        with suppress(psutil.Error):
            yield from self._master.children(recursive=True)
