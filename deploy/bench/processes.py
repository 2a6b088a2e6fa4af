"""Programs that are started for the measurement, and what a master and its workers use: CPU so far, and memory."""

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

_STOP_SECONDS = 10.0  # seconds from the signal to stop to the one that kills


@dataclass(frozen=True, slots=True)
class MeasuredProgram:
    """A running program, and what it prints."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def check(self) -> None:
        """It still runs.

        Raises:
            CommandError: it does not, with its reason.
        """
        if self.process.poll() is not None:
            reason = logged_reason(self.output.read_text(errors="replace"))
            raise CommandError(f"{self.name} ended: {reason}")


@contextmanager
def running(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[MeasuredProgram]:
    """Run a program in ``folder``. A process group of its own keeps Ctrl-C from it, and finds all that it started."""
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
        with suppress(ProcessLookupError):  # as it should be: nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True, slots=True)
class Memory:
    """One process's, in bytes: ``pss`` counts a page once over those that share it, ``uss`` is its own alone."""

    pid: int
    is_master: bool
    pss: int
    uss: int


class Processes:
    """A master and all its descendants, as they are when asked for."""

    def __init__(self, master: int) -> None:
        self._master = psutil.Process(master)

    def cpu_seconds(self) -> float:
        """The CPU that they have used so far, those included that have ended and were waited for."""
        total = 0.0
        for process in self._all():
            with suppress(psutil.Error):  # gone since
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory(self) -> list[Memory]:
        """One a process, the master's first."""
        found = []
        for process in self._all():
            with suppress(psutil.Error):
                used = process.memory_full_info()
                found.append(Memory(process.pid, process.pid == self._master.pid, used.pss, used.uss))
        return found

    def _all(self) -> Iterator[psutil.Process]:
        yield self._master
        with suppress(psutil.Error):
            yield from self._master.children(recursive=True)
