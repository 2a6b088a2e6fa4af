"""What the programs of a local stack use, as the kernel counts it: the same readings as those of containers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from deploy.backends.local.supervisord import Supervisord
from deploy.backends.local.watch import process_tree
from deploy.scaling.usage import LOCUST, NGINX, SERVER, Reading

# Seconds after which programs, their children and their memory are looked at anew: that costs far more than their CPU.
_LOOK_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class _Group:
    """Processes that count as one, the first of them the parent of the others."""

    name: str
    service: str
    processes: Sequence[psutil.Process]
    memory: int
    cpus: float | None


class Statistics:
    """The replicas and the Nginx of one stack, and the processes of load generators by the ids of their parents.

    ``cpus`` is what each replica is held to; a process of Locust's can use one CPU. None has a limit of memory.
    """

    def __init__(
        self, supervisord: Supervisord, cpus: float | None, generators: Callable[[], Iterable[int]] = tuple
    ) -> None:
        self._supervisord = supervisord
        self._cpus = cpus
        self._generators = generators
        self._groups: list[_Group] = []
        self._looked: float | None = None

    def read(self) -> list[Reading]:
        """One reading a program, and one a process of the generators.

        Raises:
            OSError: supervisord does not answer.
        """
        if self._looked is None or time.monotonic() - self._looked > _LOOK_AGAIN:
            self._groups = list(self._look())
            self._looked = time.monotonic()
        return [reading for group in self._groups if (reading := self._reading(group))]

    def _look(self) -> Iterator[_Group]:
        for name, program in self._supervisord.info().items():
            service = SERVER if name.startswith("replica-") else name
            if program["pid"] and service in (SERVER, NGINX):
                yield from _group(
                    name, service, process_tree(program["pid"]), self._cpus if service == SERVER else None
                )
        for parent in self._generators():
            for process in process_tree(parent):
                yield from _group(LOCUST, LOCUST, [process], 1.0)

    def _reading(self, group: _Group) -> Reading | None:
        # A child of Locust's has a reading of its own.
        ended = group.service != LOCUST
        now, used = time.time(), [_cpu_seconds(process, ended=ended) for process in group.processes]
        if None in used:
            self._looked = None
        if used[0] is None:
            return None
        seconds = sum(one for one in used if one is not None)
        return Reading(group.name, group.service, now, seconds, group.memory, group.cpus)


def _group(name: str, service: str, tree: Sequence[psutil.Process], cpus: float | None) -> Iterator[_Group]:
    """None where the process has gone."""
    if tree:
        # A program that is started anew keeps its name.
        yield _Group(f"{name} {tree[0].pid}", service, tree, sum(map(_memory, tree)), cpus)


def _cpu_seconds(process: psutil.Process, *, ended: bool) -> float | None:
    """With that of its children which have ``ended``, and were waited for, or without; None if it has gone itself."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system + (times.children_user + times.children_system if ended else 0))


def _memory(process: psutil.Process) -> int:
    """Its share: a page that n processes have counts 1/n in each."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
