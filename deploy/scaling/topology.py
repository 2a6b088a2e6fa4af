"""What is measured: so many replicas, each with so many workers, CPUs and so much memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.errors import CommandError
from server.system import memory_sizes

_FORM = re.compile(r"(\d+)x(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?)([MG]))?(?::(\d+))?", re.ASCII | re.IGNORECASE)
_MEGA, _GIGA = 1 << 20, 1 << 30
# The least that is told apart, in CPUs, and the longest text that can mean anything.
_LEAST_CPUS = 0.001
_LONGEST = 40

# Named lists. The workshop's: one replica of each of its four sizes.
PRESETS: Mapping[str, str] = {"workshop": "1x0.25/256M 1x0.5/512M 1x1/1G 1x2/2G"}


@dataclass(frozen=True, slots=True)
class Topology:
    """Replicas of one size. ``cpus`` and ``memory`` (bytes; None is no limit) are each replica's."""

    replicas: int
    workers: int
    cpus: float
    memory: int | None = None

    @classmethod
    def parse(cls, text: str) -> Topology:
        """Read ``REPLICASxCPUS[/MEMORY][:WORKERS]``, as ``4x0.25/256M`` or ``1x2/1G:4``; workers follow the CPUs.

        Raises:
            CommandError: it is nothing of the kind.
        """
        match = _FORM.fullmatch(text) if len(text) < _LONGEST else None
        if not match or not all(float(number) for number in (match[1], match[2], match[3] or 1, match[5] or 1)):
            raise CommandError(f"{text!r} is no topology: expected REPLICASxCPUS/MEMORY:WORKERS, as 4x0.25/256M:1")
        cpus = max(_LEAST_CPUS, round(float(match[2]), 3))
        memory = _whole(memory_sizes.parse_size(match[3] + match[4])) if match[3] else None
        return cls(int(match[1]), int(match[5] or math.ceil(cpus)), cpus, memory)

    @property
    def name(self) -> str:
        """As :meth:`parse` reads it."""
        memory = f"/{size(self.memory)}" if self.memory else ""
        return f"{self.replicas}x{round(self.cpus, 3):.10g}{memory}:{self.workers}"

    @property
    def slug(self) -> str:
        """The name, as that of a folder."""
        return self.name.replace("/", "-").replace(":", "-")

    @property
    def total_cpus(self) -> float:
        """Of all replicas together."""
        return self.replicas * self.cpus

    @property
    def total_memory(self) -> int | None:
        """Of all replicas together, in bytes."""
        return self.replicas * self.memory if self.memory else None

    @property
    def kind(self) -> str:
        """Which way of scaling it is: ``single``, ``vertical`` (one replica, many workers) or ``horizontal``."""
        if self.replicas > 1:
            return "horizontal"
        return "vertical" if self.workers > 1 else "single"


def pairs(cpus: float, memory: int | None, counts: tuple[int, ...]) -> list[Topology]:
    """For each count k: one replica with k workers, and k replicas with one, of equal CPUs and memory in all."""
    found = [Topology(1, k, cpus, memory) for k in counts]
    found += [Topology(k, 1, math.floor(1000 * cpus / k) / 1000, _share(memory, k)) for k in counts]
    return list(dict.fromkeys(found))


def _share(memory: int | None, k: int) -> int | None:
    """A part of it, in whole megabytes, as its name has it."""
    return _whole(memory / k) if memory else None


def _whole(memory: float) -> int:
    return max(1, int(memory) // _MEGA) * _MEGA


def size(memory: int) -> str:
    """Bytes as ``256M`` or ``1.5G``; parts of a megabyte are left out."""
    if memory >= _GIGA and memory % (_GIGA // 4) == 0:
        return f"{memory / _GIGA:g}G"
    return f"{memory // _MEGA}M"
