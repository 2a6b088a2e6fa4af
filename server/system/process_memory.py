"""Memory use of a replica's processes, as the kernel counts it in /proc."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class MemoryUse(NamedTuple):
    """Memory of a group of processes (bytes): pages that are shared, and pages that only one process maps."""

    shared: int
    private: int


def usage(master: int, proc: Path = _PROC) -> MemoryUse:
    """Return the memory use of a process and all its descendants.

    A page that n processes of the machine map counts 1/n in each of them (the kernel's proportional set size).
    """
    shares, privates = zip(*(_memory(proc / str(pid)) for pid in process_tree(master, proc)), strict=True)
    return MemoryUse(sum(shares) - sum(privates), sum(privates))


def process_tree(master: int, proc: Path = _PROC) -> list[int]:
    """Return the id of a process, followed by those of all its descendants."""
    children = defaultdict(list)
    for folder in proc.glob("[0-9]*"):
        if (parent := _parent(folder)) is not None:
            children[parent].append(int(folder.name))
    pids = [master]
    for pid in pids:  # the list grows while it is read
        pids.extend(children[pid])
    return pids


def _parent(folder: Path) -> int | None:
    try:
        # The name in parentheses may hold any characters. The state and the parent's id follow it.
        return int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:  # the process has ended
        return None


def _memory(folder: Path) -> tuple[int, int]:
    """Return the proportional and the private memory of a process (bytes), zero if it has ended."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    return _total(lines, "Pss:"), _total(lines, "Private_")


def _total(lines: Iterable[str], prefix: str) -> int:
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(prefix))
