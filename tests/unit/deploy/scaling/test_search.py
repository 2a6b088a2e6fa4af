"""Tests of the search for the least resources that hold the objective."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.scaling.search import CPU_GRAIN, MEGABYTE, MEMORY_GRAIN, Search, Trial
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from deploy.scaling.topology import Topology
from tests.support.lab_results import make_step

GIGABYTE = 1024 * MEGABYTE


class Stack:
    """A simulated stack that holds the objective with at least this CPU and memory per replica; None means never."""

    def __init__(self, cpus: float, memory: int = 0, used: Callable[[float], float] | None = None) -> None:
        self.cpus, self.memory = cpus, memory
        self.tried: list[Topology] = []
        self._used = used or (lambda least: least * 0.9)

    def trial(self, topology: Topology) -> Step | None:
        """Return the result of a trial: the usage is nine tenths of the need, or ``used``."""
        self.tried.append(topology)
        held = topology.cpus >= self.cpus - 1e-9 and (topology.memory or math.inf) >= self.memory
        return make_step(
            1000, verdict=PASS if held else FAIL, reason="" if held else "CPU 99 %",
            cpus=topology.replicas * self._used(self.cpus), memory=int(topology.replicas * self._used(self.memory)),
        )  # fmt: skip


MOST = Topology(1, 2, 2.0, GIGABYTE)
cpu_grains = st.integers(1, 40)
memory_grains = st.integers(1, 128)


@given(cpu_grains, memory_grains, st.floats(0, 3))
def test_search_finds_the_least(cpus: int, memory: int, accuracy: float) -> None:
    """The search finds the exact least on its grain within a few trials, whatever its first guesses."""
    stack = Stack(cpus * CPU_GRAIN, memory * MEMORY_GRAIN, lambda least: least * accuracy)
    topology = Search(stack.trial).least(MOST).topology
    assert topology is not None
    assert (round(topology.cpus / CPU_GRAIN), topology.memory) == (cpus, memory * MEMORY_GRAIN)
    assert topology.workers == math.ceil(topology.cpus)
    assert len(stack.tried) <= 16
    assert len(set(stack.tried)) == len(stack.tried)


@given(st.floats(0.001, 2.0), st.integers(1, GIGABYTE))
def test_need_between_grains_is_rounded_up(cpus: float, memory: int) -> None:
    """A need between two grains is answered with the upper one, and the lower one was seen to fail."""
    stack = Stack(cpus, memory)
    topology = Search(stack.trial).least(MOST).topology
    assert topology is not None
    assert topology.memory is not None
    assert cpus - 1e-9 <= topology.cpus < cpus + CPU_GRAIN + 1e-9
    assert memory <= topology.memory < memory + MEMORY_GRAIN


@given(st.integers(1, 4), cpu_grains, memory_grains)
def test_search_shrinks_each_replica_and_keeps_their_number(replicas: int, cpus: int, memory: int) -> None:
    """The search shrinks each of several replicas and keeps their number."""
    stack = Stack(cpus * CPU_GRAIN, memory * MEMORY_GRAIN)
    topology = Search(stack.trial).least(Topology(replicas, 2, 2.0, GIGABYTE)).topology
    assert topology is not None
    assert topology.cpus == pytest.approx(cpus * CPU_GRAIN)
    assert (topology.replicas, topology.memory) == (replicas, memory * MEMORY_GRAIN)


@given(st.integers(1, 16), st.integers(1, 16))
def test_search_without_limits_tries_integer_cpus(cpus: int, most: int) -> None:
    """Without fractions of CPUs and memory limits, only integers up to the maximum are tried."""
    stack = Stack(min(cpus, most))
    answer = Search(stack.trial, 1).least(Topology(1, most, float(most)))
    assert answer.topology == Topology(1, min(cpus, most), float(min(cpus, most)))
    assert all(
        topology.cpus == int(topology.cpus) == topology.workers and topology.memory is None for topology in stack.tried
    )
    assert max(topology.cpus for topology in stack.tried) == most
    assert len(stack.tried) <= 7


@given(cpu_grains, memory_grains)
def test_answer_names_the_smaller_resources_that_failed(cpus: int, memory: int) -> None:
    """The answer names the smaller resources that failed, or says that less was not tried."""
    stack = Stack(cpus * CPU_GRAIN, memory * MEMORY_GRAIN)
    lines = Search(stack.trial).least(MOST).words.split("; ")
    failed = {f"{topology.name} did not hold" for topology in stack.tried if stack_fails(stack, topology)}
    assert lines[0] in (failed if cpus > 1 else {"less was not tried"})
    assert lines[1] in (failed if memory > 1 else {"less memory was not tried"})


def stack_fails(stack: Stack, topology: Topology) -> bool:
    """Return whether the stack fails the objective on a topology."""
    return topology.cpus < stack.cpus - 1e-9 or (topology.memory or math.inf) < stack.memory


def test_search_starts_at_the_measured_cpu() -> None:
    """The CPU used at the maximum is the first guess, which saves trials."""
    stack = Stack(0.5, 200 * MEGABYTE)
    Search(stack.trial).least(MOST)
    assert [topology.cpus for topology in stack.tried[:2]] == [2.0, 0.55]
    assert len(stack.tried) <= 16


def test_failed_maximum_ends_the_search() -> None:
    """If the maximum fails, the answer is the reason after one trial."""
    stack = Stack(3.0)
    answer = Search(stack.trial).least(MOST)
    assert answer.topology is None
    assert answer.words == "not held with 1x2/1G:2, the most that was tried: CPU 99 %"
    assert stack.tried == [MOST]


def scripted(rule: Callable[[Topology], str | None]) -> Trial:
    """Return a trial whose verdict a rule decides; the verdict None means that the topology does not start."""

    def trial(topology: Topology) -> Step | None:
        verdict = rule(topology)
        reason = {FAIL: "P95 1500 ms", GENERATOR_BOUND: "users came late"}.get(verdict or "", "")
        return make_step(1000, verdict=verdict, reason=reason, cpus=0.1, memory=10 * MEGABYTE) if verdict else None

    return trial


def test_search_reports_when_maximum_does_not_start() -> None:
    """If the maximum does not start, the answer says so."""
    answer = Search(scripted(lambda _: None)).least(MOST)
    assert (answer.topology, answer.words) == (
        None,
        "not held with 1x2/1G:2, the most that was tried: no replica started",
    )


def test_replica_too_small_to_start_fails() -> None:
    """Replicas that do not start for lack of memory count as a failure."""
    answer = Search(scripted(lambda topology: PASS if (topology.memory or 0) >= 200 * MEGABYTE else None)).least(MOST)
    assert answer.topology == Topology(1, 1, 0.05, 200 * MEGABYTE)
    assert answer.words == "less was not tried; 1x0.05/192M:1 did not hold"


def test_generator_bound_first_trial_gives_no_answer() -> None:
    """A generator-bound first trial leaves the question open."""
    answer = Search(scripted(lambda _: GENERATOR_BOUND)).least(MOST)
    assert answer.topology is None
    assert answer.words == "not known: 1x2/1G:2 was generator-bound (users came late)"


def test_generator_bound_trial_ends_the_search_of_cpu() -> None:
    """A generator-bound trial ends the search of CPU with the best so far, and the search of memory follows."""

    def rule(topology: Topology) -> str:
        if 0.5 <= topology.cpus < 1:
            return GENERATOR_BOUND
        return PASS if topology.cpus >= 0.5 and (topology.memory or 0) >= 512 * MEGABYTE else FAIL

    answer = Search(scripted(rule)).least(MOST)
    assert answer.topology is not None
    assert answer.topology.cpus >= 1
    assert answer.topology.memory == 512 * MEGABYTE
    cpus, memory = answer.words.split("; ")
    assert cpus.endswith("was generator-bound, so less is not known")
    assert memory.endswith("/504M:2 did not hold")


def test_generator_bound_trial_ends_the_search_of_memory() -> None:
    """A generator-bound trial in the search of memory leaves the best memory so far."""
    answer = Search(scripted(lambda topology: PASS if topology.memory == GIGABYTE else GENERATOR_BOUND)).least(MOST)
    assert answer.topology == Topology(1, 1, 0.05, GIGABYTE)
    assert answer.words.startswith("less was not tried; ")
    assert answer.words.endswith("was generator-bound, so less is not known")


@given(
    st.floats(0.01, 4),
    st.none() | st.integers(MEGABYTE, 4 * GIGABYTE),
    st.floats(0.01, 4),
    st.integers(1, 4 * GIGABYTE),
)
def test_no_trial_exceeds_the_maximum(cpus: float, memory: int | None, need: float, bytes_needed: int) -> None:
    """No trial exceeds the maximum or has no size, and the answer was seen to hold."""
    most = Topology(1, math.ceil(cpus), cpus, memory)
    stack = Stack(need, bytes_needed)
    answer = Search(stack.trial).least(most)
    assert all(0 < topology.cpus <= cpus for topology in stack.tried)
    assert all(topology.memory is None or 0 < topology.memory <= (memory or 0) for topology in stack.tried)
    assert len(stack.tried) <= 20
    if answer.topology is None:
        assert stack_fails(stack, most)
    else:
        assert answer.topology in stack.tried
        assert not stack_fails(stack, answer.topology)
