"""What the kernel allows a container, read from folders like its own."""

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
    """A quota of cgroup version 2 is rounded up, no more than the usable CPUs; without one those count."""
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cpus(tmp_path) == (USABLE if cpus is None else min(cpus, USABLE))


@pytest.mark.parametrize(("quota", "cpus"), [("50000", 1), ("110000", 2), ("-1", None), ("0", None), ("x", None)])
def test_cgroup_1_quota_is_rounded_up(tmp_path: Path, quota: str, cpus: int | None) -> None:
    """A quota of cgroup version 1 is rounded up as well; -1 means that there is none."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(tmp_path) == (USABLE if cpus is None else min(cpus, USABLE))


def test_usable_cpus_count_without_a_cgroup(tmp_path: Path) -> None:
    """Without a control group, the CPUs that this process may use count."""
    assert available_cpus(tmp_path / "none") == USABLE


@pytest.mark.parametrize(
    ("text", "limit"), [("1073741824\n", 1 << 30), ("6291456", 6 << 20), ("max\n", None), ("1G", None), ("", None)]
)
def test_memory_limit_of_version_2(tmp_path: Path, text: str, limit: int | None) -> None:
    """The limit is a number of bytes; `max`, and what is no number, is none."""
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
def test_memory_limit_of_version_1(tmp_path: Path, text: str, limit: int | None) -> None:
    """The limit is a number of bytes; the largest number of whole pages means that there is none."""
    write(tmp_path, "memory/memory.limit_in_bytes", text)
    assert memory_limit(tmp_path) == limit


def test_memory_limit_of_both_versions(tmp_path: Path) -> None:
    """Where both versions are mounted, version 2 is asked first."""
    write(tmp_path, "memory.max", "1000000")
    write(tmp_path, "memory/memory.limit_in_bytes", "2000000")
    assert memory_limit(tmp_path) == 1_000_000


def test_missing_cgroup_has_no_memory_limit(tmp_path: Path) -> None:
    """Without a control group there is no limit, and nobody was killed."""
    assert memory_limit(tmp_path / "none") is None
    assert oom_kills(tmp_path / "none") == 0


def test_memory_used_of_version_2(tmp_path: Path) -> None:
    """Pages of files on a disk are given up before anybody is killed; those of files in memory are not."""
    write(tmp_path, "memory.current", "1000\n")
    write(tmp_path, "memory.stat", "anon 500\nfile 400\nkernel 100\nshmem 150\nfile_mapped 30\n")
    assert memory_used(tmp_path) == 1000 - 400 + 150


def test_memory_used_of_version_1(tmp_path: Path) -> None:
    """Version 1 counts the groups below with `total_`; kernels that do not tell of files in memory have none."""
    write(tmp_path, "memory/memory.usage_in_bytes", "1000\n")
    stat = "cache 1\nshmem 1\ntotal_cache 400\ntotal_rss 600\n"
    write(tmp_path, "memory/memory.stat", stat)
    assert memory_used(tmp_path) == 600
    write(tmp_path, "memory/memory.stat", f"{stat}total_shmem 150\n")
    assert memory_used(tmp_path) == 750


def test_memory_used_of_both_versions(tmp_path: Path) -> None:
    """Where both versions are mounted, version 2 is asked first."""
    for name, used, stat in (("memory.current", 1000, "file 0"), ("memory/memory.usage_in_bytes", 2, "total_cache 0")):
        write(tmp_path, name, f"{used}\n")
        write(tmp_path, str(Path(name).with_name("memory.stat")), f"{stat}\n")
    assert memory_used(tmp_path) == 1000


@pytest.mark.parametrize("stat", ["", "anon 5\n", "file many\n", "what is this\n", None])
@pytest.mark.parametrize("name", ["memory.current", "memory/memory.usage_in_bytes"])
def test_unknown_memory_usage_is_none(tmp_path: Path, name: str, stat: str | None) -> None:
    """Where the kernel does not tell, or not all that it takes, nobody knows."""
    assert memory_used(tmp_path) is None
    write(tmp_path, name, "1000\n")
    if stat is not None:
        write(tmp_path, str(Path(name).with_name("memory.stat")), stat)
    assert memory_used(tmp_path) is None


def test_kills_of_version_2(tmp_path: Path) -> None:
    """The kills are counted apart from how often the limit was only met."""
    write(tmp_path, "memory.events", "low 0\nhigh 0\nmax 71\noom 9\noom_kill 3\noom_group_kill 1\n")
    assert oom_kills(tmp_path) == 3


def test_kills_of_version_1(tmp_path: Path) -> None:
    """Version 1 counts them among its switches."""
    write(tmp_path, "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n")
    assert oom_kills(tmp_path) == 2


@pytest.mark.parametrize("text", ["", "oom_kill_disable 0\nunder_oom 0\n", "what is this\n"])
@pytest.mark.parametrize("name", ["memory.events", "memory/memory.oom_control"])
def test_unknown_oom_counter_is_zero(tmp_path: Path, name: str, text: str) -> None:
    """A kernel that does not count them, or in a form that is not known, has killed none."""
    write(tmp_path, name, text)
    assert oom_kills(tmp_path) == 0


def test_cpu_time_is_read_in_seconds(tmp_path: Path) -> None:
    """CPU time is told in seconds by either version, and None where it is not told."""
    assert cpu_seconds(tmp_path) is None
    write(tmp_path, "cpuacct/cpuacct.usage", "2500000000\n")
    assert cpu_seconds(tmp_path) == 2.5
    write(tmp_path, "cpu.stat", "usage_usec 1500000\nuser_usec 1\n")
    assert cpu_seconds(tmp_path) == 1.5


@pytest.mark.parametrize(("text", "limit"), [("50000 100000", 0.5), ("max 100000", None)])
def test_cpu_limit_is_a_fraction_or_none(tmp_path: Path, text: str, limit: float | None) -> None:
    """The limit is a part or a multiple of a CPU, or none."""
    write(tmp_path, "cpu.max", text)
    assert cpu_limit(tmp_path) == limit
