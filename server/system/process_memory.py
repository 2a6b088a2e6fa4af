"""What the processes of a replica hold of memory, as the kernel counts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class MemoryUse(NamedTuple):
    """Bytes of memory: a shared page counts 1/n in each of its n processes, and a private one is in one alone."""

    shared: int
    private: int


def usage(master: int, proc: Path = _PROC) -> MemoryUse:
    """Of a process and all its descendants."""
    shares, privates = zip(*(_memory(proc / str(pid)) for pid in family(master, proc)), strict=True)
    return MemoryUse(sum(shares) - sum(privates), sum(privates))


def family(master: int, proc: Path = _PROC) -> list[int]:
    """A process, first, and all its descendants."""
    children = defaultdict(list)
    for folder in proc.glob("[0-9]*"):
        if (parent := _parent(folder)) is not None:
            children[parent].append(int(folder.name))
    pids = [master]
    for pid in pids:  # it grows meanwhile
        pids.extend(children[pid])
    return pids


def _parent(folder: Path) -> int | None:
    try:
        # After the name, which is in parentheses and may hold anything: the state, and the parent's id.
        return int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:  # it has gone
        return None


def _memory(folder: Path) -> tuple[int, int]:
    """Proportional and private bytes; none of a process that has gone."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    return _total(lines, "Pss:"), _total(lines, "Private_")


def _total(lines: Iterable[str], start: str) -> int:
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(start))
