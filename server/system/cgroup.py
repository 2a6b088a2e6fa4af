"""Limits and use of CPU and memory of this container, read from its control group (cgroup version 2 or 1)."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from server.system.platform import usable_cpus

_ROOT = Path("/sys/fs/cgroup")
# Version 1 writes "no limit" as the largest multiple of the page size that fits into 63 bits.
_NO_LIMIT_BYTES = 1 << 60


def available_cpus(cgroup: Path = _ROOT) -> int:
    """Return the CPU limit, rounded up; without a limit, the number of CPUs that this process may use."""
    usable = len(usable_cpus())
    limit = cpu_limit(cgroup)
    return usable if limit is None else max(1, min(usable, math.ceil(limit)))


def cpu_limit(cgroup: Path = _ROOT) -> float | None:
    """Return the CPU limit (CPUs, such as 0.5), or None if there is none."""
    quota = _quota_v2(cgroup)
    return _quota_v1(cgroup) if quota is None else quota


def cpu_seconds(cgroup: Path = _ROOT) -> float | None:
    """Return the CPU time used since the control group was created (seconds), or None if the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        counts = dict(line.split() for line in (cgroup / "cpu.stat").read_text().splitlines())
        return int(counts["usage_usec"]) / 1e6
    with contextlib.suppress(OSError, ValueError):
        return int((cgroup / "cpuacct/cpuacct.usage").read_text()) / 1e9
    return None


def memory_limit(cgroup: Path = _ROOT) -> int | None:
    """Return the memory limit (bytes), or None if there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((cgroup / name).read_text())
        except (OSError, ValueError):  # "max"
            continue
        return limit if limit < _NO_LIMIT_BYTES else None
    return None


def memory_used(cgroup: Path = _ROOT) -> int | None:
    """Return the memory in use (bytes) without the page cache of files on disk, which the kernel can reclaim.

    Return None if the kernel does not tell.
    """
    for current, cached, shared in (
        ("memory.current", "file", "shmem"),
        ("memory/memory.usage_in_bytes", "total_cache", "total_shmem"),
    ):
        path = cgroup / current
        try:
            statistics = dict(line.split() for line in path.with_name("memory.stat").read_text().splitlines())
            return int(path.read_text()) - int(statistics[cached]) + int(statistics.get(shared, 0))
        except (OSError, ValueError, KeyError):
            continue
    return None


def oom_kills(cgroup: Path = _ROOT) -> int:
    """Return how many processes of this control group the OOM killer has killed."""
    for name in ("memory.events", "memory/memory.oom_control"):
        try:
            counts = dict(line.split() for line in (cgroup / name).read_text().splitlines())
        except (OSError, ValueError):
            continue
        return int(counts.get("oom_kill", 0))
    return 0


def _quota_v2(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max"
        return None


def _quota_v1(cgroup: Path) -> float | None:
    try:
        quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period
