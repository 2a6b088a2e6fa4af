"""Locust as a program: started, read while it runs, and stopped. Never imported: that would patch this process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from deploy.errors import CommandError
from deploy.scaling.ladder import Ladder
from deploy.scaling.records import Records
from deploy.stack.paths import ROOT

CLIENTS = ("light", "fast", "batch")
# Seconds beyond the ladder after which Locust ends by itself, whatever became of the lab.
_CAP = 120
_PATIENCE = 30.0  # seconds from the signal to stop to the one that kills


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks for what: the client of each user, the address's path, the rows, and how many processes they share."""

    client: str = "light"
    target: str = "/predict"
    data: Path | None = None
    processes: int = 1
    # Seconds that a user waits between two requests: evenly between these.
    wait: tuple[float, float] = (1.0, 2.5)

    @property
    def mean_wait(self) -> float:
        """Seconds."""
        return sum(self.wait) / 2

    def arguments(self, ladder: Ladder, host: str, file: str, folder: str, data: str) -> list[str]:
        """Locust's own, for one test up this ladder; its tables and pages go to ``folder``."""
        options = {
            "--locustfile": file,
            "--host": host,
            "--users": ladder.users,
            "--spawn-rate": ladder.spawn_rate,
            "--step-users": ladder.step_users,
            "--step-seconds": ladder.step_seconds,
            "--run-time": f"{ladder.seconds + _CAP}s",
            "--client": self.client,
            "--target": self.target,
            "--wait-min": self.wait[0],
            "--wait-max": self.wait[1],
            "--processes": self.processes,
            "--csv": f"{folder}/locust",
            "--html": f"{folder}/locust.html",
            # The objective decides what a failure means, not Locust's status.
            "--exit-code-on-error": 0,
            "--loglevel": "WARNING",
        }
        if data:
            options["--data"] = data
        return ["--headless", "--record", *(str(word) for pair in options.items() for word in pair)]


class Generator:
    """One test. ``stop`` asks the program to end, in whatever it runs."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        stop: Callable[[subprocess.Popen[bytes]], None],
        environ: Mapping[str, str],
    ) -> None:
        self._command = command
        self._log = log
        self._stop = stop
        self._environ = environ
        self.records = Records()

    def __enter__(self) -> Generator:
        with self._log.open("wb") as log:
            # A process group of its own keeps Ctrl-C from it: it is to end in order.
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process.poll() is None:
                self._stop(self._process)
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Processes that a killed master has left behind. macOS says EPERM where those that are left have ended.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._thread.join(_PATIENCE)

    @property
    def pid(self) -> int:
        """Of the program itself; its processes are its children, unless it runs in a container."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has, and all that it told was read; its processes may outlive it where it was killed."""
        status = self._process.poll()
        return status is not None and (status < 0 or not self._thread.is_alive())

    def check(self) -> None:
        """It did not end with an error.

        Raises:
            CommandError: it did, with its reason.
        """
        if self.ended and self._process.returncode:
            raise CommandError(self.records.refusal or f"Locust ended: {self._reason(self._process.returncode)}")

    def _reason(self, status: int) -> str:
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        told = [line for line in lines if line.strip("- ") and "|" not in line]  # not of its table of results
        return told[-1] if told else f"status {status}"

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  (it was asked for)
        with self._process.stdout as lines:
            for line in lines:
                self.records.take(line)
