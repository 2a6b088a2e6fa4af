"""What differs between Linux and other platforms."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from server.settings import Settings
from server.system.platform import (
    can_pin,
    is_linux,
    kept_to,
    lower_priority_of_thread,
    processor_name,
    usable_cpus,
)
from tests.support import macos


def test_linux_tells_the_cpus_of_this_process() -> None:
    """On Linux the usable CPUs are those of the process's affinity, and a thread can be kept to one of them."""
    usable = usable_cpus()
    assert set(usable) == os.sched_getaffinity(0)
    assert is_linux()
    assert can_pin()
    with kept_to([usable[-1]]):
        assert usable_cpus() == [usable[-1]]
    with kept_to([]):
        assert usable_cpus() == usable
    assert usable_cpus() == usable


def test_macos_has_all_cpus_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CPU affinity all CPUs are usable, and keeping a thread to some changes nothing."""
    macos.pretend(monkeypatch)
    assert not is_linux()
    assert not can_pin()
    assert usable_cpus() == list(range(os.cpu_count() or 1))
    with kept_to([0]):
        assert usable_cpus() == list(range(os.cpu_count() or 1))


def test_settings_are_read_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of workers, which the verbs of the container backend read too, is the number of CPUs."""
    macos.pretend(monkeypatch)
    assert Settings.from_env({}).workers == os.cpu_count()


def test_linux_tells_the_name_of_the_processor(tmp_path: Path) -> None:
    """On Linux the processor's name is the kernel's where it has one, else that of its architecture."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Fine CPU @ 2 GHz: fast\n")
    assert processor_name(info) == "A Fine CPU @ 2 GHz: fast"
    assert processor_name(tmp_path / "none") == os.uname().machine


@pytest.mark.parametrize(
    ("program", "name"), [("echo 'Apple M1 Pro'", "Apple M1 Pro"), ("exit 1", os.uname().machine), (None, None)]
)
def test_macos_tells_the_name_of_the_processor(
    program: str | None, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS `sysctl` names the processor; without its answer that of its architecture is told."""
    macos.pretend(monkeypatch)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin" if program else str(tmp_path))
    if program:
        (tmp_path / "sysctl").write_text(f'#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && {program}\n')
        (tmp_path / "sysctl").chmod(0o755)
    assert processor_name() == (name or os.uname().machine)


@pytest.mark.parametrize("on_macos", [False, True])
def test_thread_gives_way_on_linux_alone(on_macos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's priority is lowered on Linux; on macOS, where a thread's id may be another process's, nothing is."""
    if on_macos:
        macos.pretend(monkeypatch)
    found: list[int] = []

    def lower() -> None:
        lower_priority_of_thread(7)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=lower)
    thread.start()
    thread.join()
    assert found == [before if on_macos else max(before, 7)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
