"""Tests of CPU and memory usage over time windows, from made-up readings and real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.backends.local.supervisord import Supervisord
from deploy.scaling.adapters.local_statistics import Statistics
from deploy.scaling.usage import Reading, Sampler, Usage
from deploy.stack.paths import Layout
from tests.support.waiting import wait_until

PATIENCE = 30  # seconds


def series(name: str, service: str, cpus: float, memory: int = 100, **more: Any) -> list[Reading]:
    """Return eleven readings, one per second, of a process with this CPU usage."""
    return [Reading(name, service, t, t * cpus, memory + t, **more) for t in range(11)]


def test_replica_usage_is_summed_and_services_are_separate() -> None:
    """Usage of replicas is summed, percentages are of the replica nearest to its limit, and services are separate."""
    usage = Usage.of(
        [
            *series("a", "server", 0.25, cpu_limit=0.5, memory_limit=1000),
            *series("b", "server", 0.5, 500, cpu_limit=2, memory_limit=1016),
            *series("c", "nginx", 0.125),
            *series("d", "locust", 0.5, cpu_limit=1),
            *series("e", "locust", 0.75, cpu_limit=1),
        ],
        2,
        8,
    )
    assert usage == Usage(
        cpus=0.75, cpu_percent=50, memory=108 + 508, memory_percent=50, throttled=0,
        nginx_cpus=0.125, locust_cpus=1.25, locust_cpu_percent_of_limit=75,
    )  # fmt: skip


def test_no_readings_give_unknown_usage() -> None:
    """Without readings in the window the usage is unknown."""
    assert Usage.of([], 0, 10) == Usage()
    assert Usage.of(series("a", "server", 1, cpu_limit=1), 11, 12) == Usage()
    assert Usage.of(series("a", "server", 1)[:1], 0, 10) == Usage(memory=100, throttled=0)


def test_usage_without_limit_has_no_percentage() -> None:
    """Usage without a limit has no percentage."""
    usage = Usage.of(series("a", "server", 1), 0, 10)
    assert (usage.cpus, usage.cpu_percent, usage.memory_percent) == (1, None, None)


def test_short_window_interpolates_between_readings() -> None:
    """A window shorter than the interval of readings gets its share of the difference."""
    usage = Usage.of(series("a", "server", 0.5, cpu_limit=1, memory_limit=1000), 2.25, 2.75)
    assert (usage.cpus, usage.cpu_percent, usage.memory, usage.memory_percent) == (0.5, 50, 103, 10.3)


def test_missed_readings_do_not_reduce_the_sum() -> None:
    """Failed readings do not reduce the sum."""
    readings = [reading for reading in series("a", "server", 0.5) if reading.time not in (3, 4, 5)]
    assert Usage.of(readings, 0, 10).cpus == 0.5
    assert Usage.of(readings, 4, 10).cpus == 0.5


def test_replacing_replica_is_not_counted_twice() -> None:
    """A replica that replaces another within the window does not count as a second replica."""
    old, new = series("a", "server", 0.5)[:6], series("b", "server", 0.5)[5:]
    assert Usage.of([*old, *new], 0, 10).cpus == 0.5


def test_restarted_container_keeps_its_earlier_cpu_time() -> None:
    """A restarted container, which counts from zero, keeps its earlier CPU time."""
    readings = [Reading("a", "server", t, (100 + t if t < 5 else t - 5) * 0.5, 100, cpu_limit=1) for t in range(11)]
    usage = Usage.of(readings, 0, 10)
    assert usage.cpus == pytest.approx(0.45)
    assert usage.cpu_percent == 50


def test_throttled_seconds_are_those_of_the_window() -> None:
    """Throttled seconds are those within the window."""
    readings = [Reading("a", "server", t, t, 1, throttled=10 + 0.25 * t) for t in range(11)]
    assert Usage.of(readings, 2, 6).throttled == 1


def test_sampler_keeps_readings_and_ends_its_thread() -> None:
    """The sampler keeps its readings, and its thread ends with the block."""
    ticks = iter(range(1000))
    threads = threading.active_count()
    with Sampler(lambda: [Reading("a", "server", tick := next(ticks), tick * 0.5, 7)], 0.001) as sampler:
        wait_until(lambda: sampler.between(0, 1000).memory and sampler.between(2, 3).cpus)
    assert sampler.between(0, 2).cpus == 0.5
    assert sampler.fault == ""
    assert threading.active_count() == threads


def test_permanently_failed_reader_reports_its_error() -> None:
    """An occasional failure is skipped; a reader that always fails reports its error and no usage."""
    ticks = iter(range(1000))

    def sometimes() -> list[Reading]:
        tick = next(ticks)
        if tick % 2:
            raise OSError("gone")
        return [Reading("a", "server", tick, tick, 7)]

    with Sampler(sometimes, 0.001) as sampler:
        wait_until(lambda: sampler.between(3, 4).cpus)
    assert sampler.between(0, 4).cpus == 1

    def never() -> list[Reading]:
        raise KeyError("cpu_stats")

    with Sampler(never, 0.001) as sampler:
        wait_until(lambda: sampler.fault)
    assert sampler.fault == "KeyError: 'cpu_stats'"
    assert sampler.between(0, time.time()) == Usage()


class FakeSupervisord(Supervisord):
    """A supervisord that knows the programs which a test started."""

    def __init__(self, layout: Layout, programs: dict[str, int]) -> None:
        super().__init__(layout)
        self.programs = programs

    def info(self) -> dict[str, dict[str, Any]]:
        return {name: {"pid": pid} for name, pid in self.programs.items()}


# A parent that waits, and a child that works until its parent closes its input.
FAMILY = """
import os, sys
ready, tell = os.pipe()
if os.fork() == 0:
    os.close(tell)
    os.set_blocking(ready, False)
    while True:
        try:
            if not os.read(ready, 1): os._exit(0)
        except BlockingIOError: sum(range(10000))
print("up", flush=True)
sys.stdin.read(1)
os.close(tell)
os.wait()
print("alone", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A program with a child that keeps a CPU busy until a byte is written to the program's stdin."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-IS", "-c", FAMILY], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout
    assert process.stdin
    with process, process.stdin, process.stdout:
        assert process.stdout.readline() == "up\n"
        yield process
        process.stdin.close()


def test_program_usage_includes_ended_children(tmp_path: Path, family: subprocess.Popen[str]) -> None:
    """A program's CPU is that of all its processes, including ended children, and its memory that of running ones."""
    programs = {"replica-1": family.pid, "nginx": os.getpid(), "locust": os.getpid(), "replica-2": 0}
    statistics = Statistics(FakeSupervisord(Layout(tmp_path), programs), 2)
    (first, *_) = first_readings = statistics.read()
    assert [(reading.name, reading.service, reading.cpu_limit, reading.memory_limit) for reading in first_readings] == [
        (f"replica-1 {family.pid}", "server", 2, None),
        (f"nginx {os.getpid()}", "nginx", None, None),
    ]
    alone = psutil.Process(family.pid).memory_full_info().pss
    assert alone < first.memory
    wait_until(lambda: statistics.read()[0].cpu_seconds > first.cpu_seconds + 0.2)
    assert psutil.Process(family.pid).cpu_times().user < 0.2
    worked = statistics.read()[0].cpu_seconds
    assert family.stdin
    assert family.stdout
    family.stdin.write("x")
    family.stdin.flush()
    assert family.stdout.readline() == "alone\n"
    assert statistics.read()[0].cpu_seconds >= worked


def test_each_generator_process_has_a_reading(tmp_path: Path, family: subprocess.Popen[str]) -> None:
    """Each process of a generator has a separate reading with a limit of one CPU while it runs."""
    pids: list[int] = []
    statistics = Statistics(FakeSupervisord(Layout(tmp_path), {}), None, lambda: pids)
    assert statistics.read() == []
    pids.append(family.pid)
    statistics = Statistics(FakeSupervisord(Layout(tmp_path), {}), None, lambda: pids)
    wait_until(lambda: sum(reading.cpu_seconds for reading in statistics.read()) > 0.2)
    parent, child = statistics.read()
    assert (parent.service, parent.cpu_limit, child.cpu_limit) == ("locust", 1, 1)
    assert parent.cpu_seconds < child.cpu_seconds
    assert family.stdin
    family.stdin.close()
    family.wait(PATIENCE)
    assert statistics.read() == []
