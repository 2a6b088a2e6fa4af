"""One program that is started for the measurement, and stopped with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import CommandError

_PATIENCE = 10.0  # seconds from the signal to stop to the one that kills


@dataclass(frozen=True, slots=True)
class Program:
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
            raise CommandError(f"{self.name} ended: {self._reason()}")

    def _reason(self) -> str:
        """Our own last line of what it printed, else its last line."""
        lines = self.output.read_text(errors="replace").strip().splitlines()
        ours = [line.removeprefix("forkcast: ") for line in lines[-20:] if line.startswith("forkcast: ")]
        return (ours or lines or ["it printed nothing"])[-1]


@contextmanager
def running(name: str, command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Iterator[Program]:
    """Run a program in ``folder``. A process group of its own keeps Ctrl-C from it, and finds all that it started."""
    output = folder / "log" / f"{name.replace(' ', '-')}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
        )
    try:
        yield Program(name, process, output)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.terminate()
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):  # as it should be: nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
