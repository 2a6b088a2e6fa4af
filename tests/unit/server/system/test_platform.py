"""What differs between Linux and other platforms."""

from __future__ import annotations

import os

import pytest

from server.settings import Settings
from server.system.platform import is_linux, kept_to, usable_cpus
from tests.support import macos


def test_linux_tells_the_cpus_of_this_process() -> None:
    """On Linux the usable CPUs are those of the process's affinity, and a thread can be kept to one of them."""
    usable = usable_cpus()
    assert set(usable) == os.sched_getaffinity(0)
    assert is_linux()
    with kept_to([usable[-1]]):
        assert usable_cpus() == [usable[-1]]
    with kept_to([]):
        assert usable_cpus() == usable
    assert usable_cpus() == usable


def test_macos_has_all_cpus_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CPU affinity all CPUs are usable, and keeping a thread to some changes nothing."""
    macos.pretend(monkeypatch)
    assert not is_linux()
    assert usable_cpus() == list(range(os.cpu_count() or 1))
    with kept_to([0]):
        assert usable_cpus() == list(range(os.cpu_count() or 1))


def test_settings_are_read_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of workers, which the verbs of the container backend read too, is the number of CPUs."""
    macos.pretend(monkeypatch)
    assert Settings.from_env({}).workers == os.cpu_count()
