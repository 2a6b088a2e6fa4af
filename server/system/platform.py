"""Differences between Linux and other platforms: usable CPUs, CPU affinity, and priorities of threads.

Replicas run on Linux, also in containers. The verbs of the container backend also run on macOS, whose Python has no
``os.sched_getaffinity``, and which has no /proc and no /sys. A module that needs one of these either uses the functions
here or runs on Linux only.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def is_linux() -> bool:
    """Return whether local replicas can run here: they need Linux's /proc, CPU affinity and /dev/shm."""
    return sys.platform == "linux"


def usable_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may use; without CPU affinity, all CPUs of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def can_pin() -> bool:
    """Return whether this platform can restrict a process to certain CPUs."""
    return hasattr(os, "sched_setaffinity")


@contextmanager
def pinned_to(cpus: Iterable[int]) -> Iterator[None]:
    """Restrict this thread, and the threads and programs that it starts meanwhile, to these CPUs.

    Change nothing if ``cpus`` is empty or the platform has no CPU affinity.
    """
    chosen = set(cpus)
    if not chosen or not can_pin():
        yield
        return
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name; its architecture where the kernel gives no name, as Linux on arm64."""
    names = _cpuinfo_names(cpuinfo) if is_linux() else _sysctl_names()
    return names[0] if names else platform.machine()


def _cpuinfo_names(cpuinfo: Path) -> list[str]:
    with suppress(OSError):
        lines = cpuinfo.read_text().splitlines()
        return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return []


def _sysctl_names() -> list[str]:
    try:
        sysctl = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
    except OSError:  # there is no such command
        return []
    return sysctl.stdout.strip().splitlines()


def lower_priority_of_thread(nice: int) -> None:
    """Lower the CPU priority of this thread to ``nice``; do nothing on other platforms than Linux.

    Only Linux has a priority for each thread, under the thread's id: elsewhere that id may be another process's.
    """
    if is_linux():
        lower_priority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def lower_priority(which: int, who: int, nice: int) -> None:
    """Lower the CPU priority of a process, group or thread to ``nice``; do nothing if it has ended.

    ``which`` and ``who`` are those of ``os.setpriority``.
    """
    with suppress(ProcessLookupError):
        os.setpriority(which, who, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
