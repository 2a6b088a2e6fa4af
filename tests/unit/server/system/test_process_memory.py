"""Tests of the memory use of a process tree, compared with psutil's figures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.system.process_memory import MemoryUse, process_tree, usage
from tests.support.waiting import wait_until

# A process with two children that share memory with it. The name of one child looks like fields of /proc/<pid>/stat.
TREE = """
import os, sys, time
block = bytearray(os.urandom(8 << 20))
for name in ("plain", ") Z 1 (x"):
    if not os.fork():
        open("/proc/self/comm", "w").write(name)
        own = bytearray(os.urandom(2 << 20))
        os.write(1, b"ready\\n")
        time.sleep(600)
time.sleep(600)
"""


@pytest.fixture
def tree() -> Iterator[psutil.Process]:
    """A process with two children, all stopped, so that their memory does not change."""
    with subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, text=True) as process:
        parent = psutil.Process(process.pid)
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            for member in (*parent.children(), parent):
                member.send_signal(signal.SIGSTOP)
            yield parent
        finally:
            for member in (*parent.children(), parent):
                member.kill()


def test_usage_equals_the_figures_of_make_stats(tree: psutil.Process) -> None:
    """Private memory is the sum of USS and shared memory is PSS minus USS, as in `make stats`."""

    def by_psutil() -> MemoryUse:
        memory = [process.memory_full_info() for process in (tree, *tree.children())]
        private = sum(info.uss for info in memory)
        return MemoryUse(sum(info.pss for info in memory) - private, private)

    # Retried because any other process that starts or ends with the same libraries changes the shared figure.
    wait_until(lambda: usage(tree.pid) == by_psutil())
    memory = usage(tree.pid)
    assert memory.private >= 2 * (2 << 20)
    assert memory.shared >= 8 << 20


def test_process_tree_lists_the_process_and_its_descendants(tree: psutil.Process) -> None:
    """The process comes first, then its descendants, whatever their names; siblings are not included."""
    processes = process_tree(tree.pid)
    assert processes[0] == tree.pid
    assert sorted(processes[1:]) == sorted(child.pid for child in tree.children())
    assert set(processes) < set(process_tree(os.getpid()))


def test_ended_processes_use_no_memory(tmp_path: Path) -> None:
    """A process that ends while its memory is read counts as zero bytes."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (gone) S 1 0 0")
    (tmp_path / "8").mkdir()
    assert process_tree(1, tmp_path) == [1, 7]
    assert usage(1, tmp_path) == MemoryUse(0, 0)
