"""Tests of dividing CPUs between the service and the load generator."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.scaling.placement import Placement
from deploy.scaling.topology import pairs
from tests.support import macos


@pytest.mark.parametrize(
    ("cpus", "service_cpus", "placement"),
    [
        (4, 1, Placement("0,1", "2,3", 2)), (4, 2, Placement("0,1,2", "3", 1)), (4, 3, Placement("0,1,2", "3", 1)),
        (4, 4, Placement()), (4, 6, Placement()), (2, 1, Placement("0", "1", 1)), (2, 0.25, Placement("0", "1", 1)),
        (1, 1, Placement()), (1, 0.25, Placement()), (3, 1.5, Placement("0,1", "2", 1)),
        (4, 1.25, Placement("0,1,2", "3", 1)),
    ],
)  # fmt: skip
def test_cpus_are_divided_between_service_and_generator(cpus: int, service_cpus: float, placement: Placement) -> None:
    """The service gets its CPUs and one more for Nginx if two are left; the generator gets the rest."""
    assert Placement.of(range(cpus), service_cpus) == placement


def test_generator_uses_at_most_eight_cpus() -> None:
    """The generator gets at most eight CPUs, right after the service's."""
    placement = Placement.of(range(64), 4)
    assert placement == Placement("0,1,2,3,4", "5,6,7,8,9,10,11,12", 8)


def test_cpus_are_named_by_their_own_numbers() -> None:
    """CPUs are named by their own numbers, even if they are not the machine's first."""
    assert Placement.of([2, 3, 8, 9], 1) == Placement("2,3", "8,9", 2)


@given(st.sets(st.integers(0, 255), min_size=1, max_size=64).map(sorted), st.floats(0.01, 80))
def test_service_and_generator_share_no_cpu(cpus: list[int], service_cpus: float) -> None:
    """Service and generator share no CPU; either both have CPUs and the service enough, or neither has any."""
    placement = Placement.of(cpus, service_cpus)
    service, generator = (
        [int(cpu) for cpu in text.split(",") if cpu] for text in (placement.service, placement.generator)
    )
    assert not set(service) & set(generator)
    assert set(service) | set(generator) <= set(cpus)
    assert bool(service) == bool(generator) == (len(cpus) - max(1, service_cpus) >= 1 - 0.01)
    assert placement.generator_cpus == max(1, len(generator))
    assert not service or len(service) >= service_cpus - 0.01


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_equal_totals_are_placed_alike(total: int, count: int) -> None:
    """Replicas that share CPUs get the same ones as a single replica with that total."""
    assert len({Placement.of(range(8), topology.total_cpus) for topology in pairs(float(total), None, (count,))}) == 1


def test_child_processes_run_on_the_generators_cpus() -> None:
    """During a measurement this thread's child processes run on the generator's CPUs, and afterwards on all."""
    usable = os.sched_getaffinity(0)
    last = max(usable)
    with Placement(service="", generator=str(last)).beside():
        assert os.sched_getaffinity(0) == {last}
        shown = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
        assert f"Cpus_allowed_list:\t{last}\n" in shown
    assert os.sched_getaffinity(0) == usable
    with Placement().beside():
        assert os.sched_getaffinity(0) == usable


def test_placement_description_fits_one_line() -> None:
    """The description of a placement fits one line."""
    assert Placement("0,1", "2", 1).words == "replicas and Nginx on CPU 0,1, the generator on CPU 2"
    assert Placement().words.startswith("the generator and the service share all CPUs")


def test_description_on_macos_says_what_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes cannot be pinned to CPUs, containers still are, and the description says so."""
    macos.pretend(monkeypatch)
    assert Placement("0,1", "2", 1).words == (
        "replicas and Nginx on CPU 0,1, the generator on CPU 2; to keep the lab itself to CPUs takes Linux"
    )
    assert Placement().words.startswith("the generator and the service share all CPUs")
