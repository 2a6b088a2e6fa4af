"""What a master and its workers use: CPU so far, and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil


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
