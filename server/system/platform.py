"""What differs between Linux and other platforms: CPUs, keeping a process to some of them, and priorities of threads.

Replicas run on Linux, in containers too. The verbs of the container backend also run on macOS, whose Python has no
``os.sched_getaffinity``, and which has no /proc and no /sys. A module that needs one of these gets it from here, or
runs on Linux alone.
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
    """Return the numbers of the CPUs that this process may use; those of the whole machine where nothing limits it."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def can_pin() -> bool:
    """Return whether a process of this machine can be kept to some of its CPUs."""
    return hasattr(os, "sched_setaffinity")


@contextmanager
def kept_to(cpus: Iterable[int]) -> Iterator[None]:
    """Keep this thread, and the threads and programs that it starts meanwhile, to these CPUs; to all if there are none.

    Where the platform cannot, they run where they did.
    """
    chosen = set(cpus)
    if not chosen or not can_pin():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name; that of its architecture where the kernel has none, as Linux on arm64."""
    names = _cpuinfo_names(cpuinfo) if is_linux() else _sysctl_names()
    return names[0] if names else platform.machine()


def _cpuinfo_names(cpuinfo: Path) -> list[str]:
    with suppress(OSError):
        lines = cpuinfo.read_text().splitlines()
        return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return []


def _sysctl_names() -> list[str]:
    try:
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
    except OSError:  # there is no such command
        return []
    return asked.stdout.strip().splitlines()


def lower_priority_of_thread(nice: int) -> None:
    """Let this thread give way to others. Only Linux has a priority for each thread, under the thread's id.

    On other platforms that id means nothing, or another process.
    """
    if is_linux():
        lower_priority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def lower_priority(kind: int, number: int, nice: int) -> None:
    """Let a process or a group of them (``os.PRIO_PGRP``) give way to others; none that has ended."""
    with suppress(ProcessLookupError):
        os.setpriority(kind, number, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
