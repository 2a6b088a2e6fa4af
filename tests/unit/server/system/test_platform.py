"""Tests of CPUs, CPU affinity and thread priorities on Linux and on a pretended macOS."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from server.settings import Settings
from server.system.platform import (
    can_pin,
    is_linux,
    lower_priority_of_thread,
    pinned_to,
    processor_name,
    usable_cpus,
)
from tests.support import macos


def test_linux_pins_a_thread_to_one_cpu() -> None:
    """Usable CPUs on Linux are those of the process's affinity, and a thread can be pinned to one of them."""
    usable = usable_cpus()
    assert set(usable) == os.sched_getaffinity(0)
    assert is_linux()
    assert can_pin()
    with pinned_to([usable[-1]]):
        assert usable_cpus() == [usable[-1]]
    with pinned_to([]):
        assert usable_cpus() == usable
    assert usable_cpus() == usable


def test_macos_uses_all_cpus_and_ignores_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CPU affinity all CPUs of the machine are usable, and pinning a thread changes nothing."""
    macos.pretend(monkeypatch)
    assert not is_linux()
    assert not can_pin()
    assert usable_cpus() == list(range(os.cpu_count() or 1))
    with pinned_to([0]):
        assert usable_cpus() == list(range(os.cpu_count() or 1))


def test_default_of_workers_on_macos_is_the_number_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default number of workers, which the verbs of the container backend read, is the number of CPUs on macOS."""
    macos.pretend(monkeypatch)
    assert Settings.from_env({}).workers == os.cpu_count()


def test_linux_reads_the_processor_name_from_cpuinfo(tmp_path: Path) -> None:
    """Linux gives the processor's name in `/proc/cpuinfo`; without it, the name is that of the architecture."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Fine CPU @ 2 GHz: fast\n")
    assert processor_name(info) == "A Fine CPU @ 2 GHz: fast"
    assert processor_name(tmp_path / "none") == os.uname().machine


@pytest.mark.parametrize(
    ("program", "name"), [("echo 'Apple M1 Pro'", "Apple M1 Pro"), ("exit 1", os.uname().machine), (None, None)]
)
def test_macos_reads_the_processor_name_from_sysctl(
    program: str | None, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MacOS gives the processor's name by `sysctl`; if that fails, the name is that of the architecture."""
    macos.pretend(monkeypatch)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin" if program else str(tmp_path))
    if program:
        (tmp_path / "sysctl").write_text(f'#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && {program}\n')
        (tmp_path / "sysctl").chmod(0o755)
    assert processor_name() == (name or os.uname().machine)


@pytest.mark.parametrize("on_macos", [False, True])
def test_thread_priority_is_lowered_only_on_linux(on_macos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's priority is lowered on Linux, but not on macOS, where its id may be another process's."""
    if on_macos:
        macos.pretend(monkeypatch)
    priorities: list[int] = []

    def lower() -> None:
        lower_priority_of_thread(7)
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    initial = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=lower)
    thread.start()
    thread.join()
    assert priorities == [initial if on_macos else max(initial, 7)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == initial
