"""A program's lines as they come, read by a thread."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from server.system.platform import lower_priority, lower_priority_of_thread

_PATIENCE = 5.0  # seconds from the signal to stop to the one that kills


# Thousands of lines a second are read beside a load generator, which is to come first: what is late is still counted.
_NICE = 10


class Follower:
    """Runs a program that prints without end (`tail -F`, `docker logs --follow`) and hands on each line.

    Both the program and the thread that reads it give way to whatever else wants the CPU.
    """

    def __init__(self, command: Sequence[str], take: Callable[[bytes], None]) -> None:
        self._command = command
        self._take = take

    def __enter__(self) -> Follower:
        # A process group of its own keeps Ctrl-C from it: what it still prints then is wanted.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
        )
        lower_priority(os.PRIO_PGRP, self._process.pid, _NICE)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._thread.join(_PATIENCE)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  (it was asked for)
        lower_priority_of_thread(_NICE)
        with self._process.stdout as lines:
            for line in lines:
                self._take(line)
