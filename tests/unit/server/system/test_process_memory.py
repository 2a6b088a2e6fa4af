"""What the processes of a replica hold of memory, beside what psutil says of the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.system.process_memory import MemoryUse, family, usage
from tests.support.waiting import wait_until

# A process with two children, the name of one as odd as a name can be, and memory that they share with it.
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
    """Three processes, stopped, so that their memory stays as it is."""
    with subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, text=True) as process:
        parent = psutil.Process(process.pid)
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            for one in (*parent.children(), parent):
                one.send_signal(signal.SIGSTOP)
            yield parent
        finally:
            for one in (*parent.children(), parent):
                one.kill()


def test_usage_is_that_of_make_stats(tree: psutil.Process) -> None:
    """Shared and private memory are what `make stats` shows: proportional less unique, and unique, of all processes."""

    def by_psutil() -> MemoryUse:
        memory = [process.memory_full_info() for process in (tree, *tree.children())]
        private = sum(one.uss for one in memory)
        return MemoryUse(sum(one.pss for one in memory) - private, private)

    # Each process elsewhere that loads or leaves the same libraries changes what these share.
    wait_until(lambda: usage(tree.pid) == by_psutil())
    found = usage(tree.pid)
    assert found.private >= 2 * (2 << 20)
    assert found.shared >= 8 << 20


def test_family_is_the_process_and_its_descendants(tree: psutil.Process) -> None:
    """The family is the process, first, and its descendants, whatever they call themselves; not its siblings."""
    found = family(tree.pid)
    assert found[0] == tree.pid
    assert sorted(found[1:]) == sorted(child.pid for child in tree.children())
    assert set(found) < set(family(os.getpid()))


def test_ended_processes_use_no_memory(tmp_path: Path) -> None:
    """A process that ends while it is looked at counts nothing."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (gone) S 1 0 0")
    (tmp_path / "8").mkdir()
    assert family(1, tmp_path) == [1, 7]
    assert usage(1, tmp_path) == MemoryUse(0, 0)
