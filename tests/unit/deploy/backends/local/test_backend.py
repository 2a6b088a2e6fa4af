"""The verbs on the local backend, as far as they need no running supervisord."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.backends.local.backend import LocalBackend
from deploy.errors import CommandError
from deploy.stack.paths import Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack
from server.system.platform import usable_cpus
from tests.support.options import options
from tests.support.refusals import refusal

Make = Callable[..., LocalBackend]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make the backend of a stack that does not run, with these variables."""
    monkeypatch.chdir(tmp_path)  # the backend changes into the stack's folder
    return lambda **environ: LocalBackend(Layout(tmp_path / "var"), options(**environ))


def test_up_takes_cpus_as_resources_does(make: Make) -> None:
    """A whole number of CPUs is what each replica is held to; without one, the stack keeps what it has."""
    assert make(CPUS="1")._limited(Stack()).cpus == 1
    assert make()._limited(Stack(cpus=2)).cpus == 2


@pytest.mark.parametrize("cpus", ["0.5", "1.5", "1000"])
def test_cpus_that_cannot_be_had_are_refused(make: Make, cpus: str) -> None:
    """Parts of a CPU, and more than there are, are refused by up before anything is started."""
    expected = f"expected a whole number from 1 to {len(usable_cpus())}; for parts of a CPU use Docker"
    assert refusal(make(CPUS=cpus).up) == f"CPUS={cpus!r}: {expected}"


def test_memory_is_refused(make: Make) -> None:
    """A limit of memory, which the local backend cannot hold, is refused by up too."""
    assert refusal(make(MEMORY="1G").up) == "MEMORY= needs Docker: the local backend has no memory limits"


@pytest.mark.parametrize("cleanup", [CommandError("supervisord does not answer"), OSError("the disk is full")])
def test_first_error_is_told_though_the_cleanup_fails(
    make: Make, monkeypatch: pytest.MonkeyPatch, cleanup: Exception
) -> None:
    """What went wrong first is the reason, whatever goes wrong while it is undone."""

    def fail(*_arguments: object) -> None:
        raise cleanup

    backend = make()
    monkeypatch.setattr(backend, "down", fail)
    monkeypatch.setattr(backend, "_converge", fail)
    for before in (None, Record(Stack())):
        with pytest.raises(CommandError, match=r"^the first error$"), backend._undone_on_failure(before):
            raise CommandError("the first error")
