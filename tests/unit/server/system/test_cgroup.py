"""Tests of CPU and memory limits, read from folders laid out like the kernel's control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.system.cgroup import available_cpus, cpu_limit, cpu_seconds, memory_limit, memory_used, oom_kills

USABLE = len(os.sched_getaffinity(0))


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("110000 100000", 2),
        ("150000 100000", 2),
        ("1 100000", 1),
        ("6400000 100000", 64),
        ("max 100000", None),
        ("what is this", None),
    ],
)
def test_cgroup_2_quota_is_rounded_up(tmp_path: Path, limit: str, cpus: int | None) -> None:
    """A CPU quota of cgroup version 2 is rounded up, but not beyond the usable CPUs; without one, all those count."""
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cpus(tmp_path) == (USABLE if cpus is None else min(cpus, USABLE))


@pytest.mark.parametrize(("quota", "cpus"), [("50000", 1), ("110000", 2), ("-1", None), ("0", None), ("x", None)])
def test_cgroup_1_quota_is_rounded_up(tmp_path: Path, quota: str, cpus: int | None) -> None:
    """A CPU quota of cgroup version 1 is rounded up; -1 means that there is no quota."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(tmp_path) == (USABLE if cpus is None else min(cpus, USABLE))


def test_all_usable_cpus_count_without_a_cgroup(tmp_path: Path) -> None:
    """Without a control group, all CPUs that this process may use are available."""
    assert available_cpus(tmp_path / "none") == USABLE


@pytest.mark.parametrize(
    ("text", "limit"), [("1073741824\n", 1 << 30), ("6291456", 6 << 20), ("max\n", None), ("1G", None), ("", None)]
)
def test_cgroup_2_memory_limit_is_a_number_of_bytes(tmp_path: Path, text: str, limit: int | None) -> None:
    """A number in cgroup version 2 is the memory limit in bytes; `max` or any other text means no limit."""
    write(tmp_path, "memory.max", text)
    assert memory_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("536870912\n", 512 << 20),
        ("9223372036854771712\n", None),  # pages of 4 KiB
        ("9223372036854710272\n", None),  # pages of 64 KiB
        ("many\n", None),
    ],
)
def test_cgroup_1_memory_limit_of_all_pages_is_none(tmp_path: Path, text: str, limit: int | None) -> None:
    """The largest possible number of pages in cgroup version 1 means that there is no memory limit."""
    write(tmp_path, "memory/memory.limit_in_bytes", text)
    assert memory_limit(tmp_path) == limit


def test_memory_limit_is_read_from_cgroup_2_first(tmp_path: Path) -> None:
    """The memory limit is that of cgroup version 2 if both versions are mounted."""
    write(tmp_path, "memory.max", "1000000")
    write(tmp_path, "memory/memory.limit_in_bytes", "2000000")
    assert memory_limit(tmp_path) == 1_000_000


def test_missing_cgroup_has_no_memory_limit_and_no_kills(tmp_path: Path) -> None:
    """Without a control group there is no memory limit, and the count of OOM kills is 0."""
    assert memory_limit(tmp_path / "none") is None
    assert oom_kills(tmp_path / "none") == 0


def test_cgroup_2_memory_used_excludes_the_page_cache(tmp_path: Path) -> None:
    """Memory in use excludes cached pages of files on disk, which can be reclaimed, but includes shared memory."""
    write(tmp_path, "memory.current", "1000\n")
    write(tmp_path, "memory.stat", "anon 500\nfile 400\nkernel 100\nshmem 150\nfile_mapped 30\n")
    assert memory_used(tmp_path) == 1000 - 400 + 150


def test_cgroup_1_memory_used_excludes_the_page_cache(tmp_path: Path) -> None:
    """Memory in use of cgroup version 1 is that of the `total_` figures, of which `total_shmem` may be missing."""
    write(tmp_path, "memory/memory.usage_in_bytes", "1000\n")
    stat = "cache 1\nshmem 1\ntotal_cache 400\ntotal_rss 600\n"
    write(tmp_path, "memory/memory.stat", stat)
    assert memory_used(tmp_path) == 600
    write(tmp_path, "memory/memory.stat", f"{stat}total_shmem 150\n")
    assert memory_used(tmp_path) == 750


def test_memory_used_is_read_from_cgroup_2_first(tmp_path: Path) -> None:
    """Memory in use is that of cgroup version 2 if both versions are mounted."""
    for name, used, stat in (("memory.current", 1000, "file 0"), ("memory/memory.usage_in_bytes", 2, "total_cache 0")):
        write(tmp_path, name, f"{used}\n")
        write(tmp_path, str(Path(name).with_name("memory.stat")), f"{stat}\n")
    assert memory_used(tmp_path) == 1000


@pytest.mark.parametrize("stat", ["", "anon 5\n", "file many\n", "what is this\n", None])
@pytest.mark.parametrize("name", ["memory.current", "memory/memory.usage_in_bytes"])
def test_unknown_memory_usage_is_none(tmp_path: Path, name: str, stat: str | None) -> None:
    """Memory in use is None if a file of the control group is missing or lacks a figure."""
    assert memory_used(tmp_path) is None
    write(tmp_path, name, "1000\n")
    if stat is not None:
        write(tmp_path, str(Path(name).with_name("memory.stat")), stat)
    assert memory_used(tmp_path) is None


def test_cgroup_2_oom_kills_are_read_from_memory_events(tmp_path: Path) -> None:
    """OOM kills are read from `oom_kill`, not from the counters of how often the limit was reached."""
    write(tmp_path, "memory.events", "low 0\nhigh 0\nmax 71\noom 9\noom_kill 3\noom_group_kill 1\n")
    assert oom_kills(tmp_path) == 3


def test_cgroup_1_oom_kills_are_read_from_oom_control(tmp_path: Path) -> None:
    """OOM kills of cgroup version 1 are read from `memory.oom_control`."""
    write(tmp_path, "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n")
    assert oom_kills(tmp_path) == 2


@pytest.mark.parametrize("text", ["", "oom_kill_disable 0\nunder_oom 0\n", "what is this\n"])
@pytest.mark.parametrize("name", ["memory.events", "memory/memory.oom_control"])
def test_unknown_oom_counter_is_zero(tmp_path: Path, name: str, text: str) -> None:
    """The count of OOM kills is 0 if the kernel's file has no counter or an unknown format."""
    write(tmp_path, name, text)
    assert oom_kills(tmp_path) == 0


def test_cpu_time_is_read_in_seconds(tmp_path: Path) -> None:
    """CPU time of either cgroup version is returned in seconds, and None if neither reports it."""
    assert cpu_seconds(tmp_path) is None
    write(tmp_path, "cpuacct/cpuacct.usage", "2500000000\n")
    assert cpu_seconds(tmp_path) == 2.5
    write(tmp_path, "cpu.stat", "usage_usec 1500000\nuser_usec 1\n")
    assert cpu_seconds(tmp_path) == 1.5


@pytest.mark.parametrize(("text", "limit"), [("50000 100000", 0.5), ("max 100000", None)])
def test_cpu_limit_is_a_fraction_or_none(tmp_path: Path, text: str, limit: float | None) -> None:
    """The CPU limit is a number of CPUs that may be a fraction, or None."""
    write(tmp_path, "cpu.max", text)
    assert cpu_limit(tmp_path) == limit
