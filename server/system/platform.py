"""What differs between Linux and other platforms: the CPUs that a process may use, and keeping it to some of them.

Replicas run on Linux, in containers too. The verbs of the container backend also run on macOS, whose Python has no
``os.sched_getaffinity``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def is_linux() -> bool:
    """Return whether local replicas can run here: they need Linux's /proc, CPU affinity and /dev/shm."""
    return sys.platform == "linux"


def usable_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may use; those of the whole machine where nothing limits it."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def kept_to(cpus: Iterable[int]) -> Iterator[None]:
    """Keep this thread, and the threads and programs that it starts meanwhile, to these CPUs; to all if there are none.

    Where the platform cannot, they run where they did.
    """
    chosen = set(cpus)
    if not chosen or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
