"""The least that holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.scaling.search import CPU_GRAIN, MEGABYTE, MEMORY_GRAIN, Search, Trial
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from deploy.scaling.topology import Topology
from tests.support.lab_results import a_step

GIGABYTE = 1024 * MEGABYTE


class Stack:
    """Holds the objective from so many CPUs and so many bytes on, each replica's; without a number, never."""

    def __init__(self, cpus: float, memory: int = 0, used: Callable[[float], float] | None = None) -> None:
        self.cpus, self.memory = cpus, memory
        self.tried: list[Topology] = []
        self._used = used or (lambda least: least * 0.9)

    def trial(self, topology: Topology) -> Step | None:
        """What such a stack shows: it uses nine tenths of what it needs, or whatever it was told."""
        self.tried.append(topology)
        held = topology.cpus >= self.cpus - 1e-9 and (topology.memory or math.inf) >= self.memory
        return a_step(
            1000, verdict=PASS if held else FAIL, reason="" if held else "CPU 99 %",
            cpus=topology.replicas * self._used(self.cpus), memory=int(topology.replicas * self._used(self.memory)),
        )  # fmt: skip


MOST = Topology(1, 2, 2.0, GIGABYTE)
cpu_grains = st.integers(1, 40)
memory_grains = st.integers(1, 128)


@given(cpu_grains, memory_grains, st.floats(0, 3))
def test_finds_the_least(cpus: int, memory: int, accuracy: float) -> None:
    """On its grain it finds exactly the least, in a few trials, however good its first guesses were."""
    stack = Stack(cpus * CPU_GRAIN, memory * MEMORY_GRAIN, lambda least: least * accuracy)
    found = Search(stack.trial).least(MOST).topology
    assert found is not None
    assert (round(found.cpus / CPU_GRAIN), found.memory) == (cpus, memory * MEMORY_GRAIN)
    assert found.workers == math.ceil(found.cpus)
    assert len(stack.tried) <= 16
    assert len(set(stack.tried)) == len(stack.tried)


@given(st.floats(0.001, 2.0), st.integers(1, GIGABYTE))
def test_need_between_grains_is_rounded_up(cpus: float, memory: int) -> None:
    """What is needed between two grains is answered by the upper one; one grain less was seen not to hold."""
    stack = Stack(cpus, memory)
    found = Search(stack.trial).least(MOST).topology
    assert found is not None
    assert found.memory is not None
    assert cpus - 1e-9 <= found.cpus < cpus + CPU_GRAIN + 1e-9
    assert memory <= found.memory < memory + MEMORY_GRAIN


@given(st.integers(1, 4), cpu_grains, memory_grains)
def test_search_shrinks_each_replica_and_keeps_their_number(replicas: int, cpus: int, memory: int) -> None:
    """Of several replicas, each is made smaller, and they stay as many."""
    stack = Stack(cpus * CPU_GRAIN, memory * MEMORY_GRAIN)
    found = Search(stack.trial).least(Topology(replicas, 2, 2.0, GIGABYTE)).topology
    assert found is not None
    assert found.cpus == pytest.approx(cpus * CPU_GRAIN)
    assert (found.replicas, found.memory) == (replicas, memory * MEMORY_GRAIN)


@given(st.integers(1, 16), st.integers(1, 16))
def test_search_without_limits_tries_integer_cpus(cpus: int, most: int) -> None:
    """Where CPUs come whole and memory has no limit, only whole ones are tried, and only as many as there are."""
    stack = Stack(min(cpus, most))
    answer = Search(stack.trial, 1).least(Topology(1, most, float(most)))
    assert answer.topology == Topology(1, min(cpus, most), float(min(cpus, most)))
    assert all(one.cpus == int(one.cpus) == one.workers and one.memory is None for one in stack.tried)
    assert max(one.cpus for one in stack.tried) == most
    assert len(stack.tried) <= 7


@given(cpu_grains, memory_grains)
def test_says_what_it_saw(cpus: int, memory: int) -> None:
    """Its words name what was tried and did not hold, or that nothing less was tried."""
    stack = Stack(cpus * CPU_GRAIN, memory * MEMORY_GRAIN)
    words = Search(stack.trial).least(MOST).words.split("; ")
    failed = {f"{one.name} did not hold" for one in stack.tried if stack_fails(stack, one)}
    assert words[0] in (failed if cpus > 1 else {"less was not tried"})
    assert words[1] in (failed if memory > 1 else {"less memory was not tried"})


def stack_fails(stack: Stack, topology: Topology) -> bool:
    """Whether it did not hold there."""
    return topology.cpus < stack.cpus - 1e-9 or (topology.memory or math.inf) < stack.memory


def test_search_starts_at_the_measured_cpu() -> None:
    """The CPU that was used at the most tells where to look first, so that a good guess saves trials."""
    stack = Stack(0.5, 200 * MEGABYTE)
    Search(stack.trial).least(MOST)
    assert [one.cpus for one in stack.tried[:2]] == [2.0, 0.55]
    assert len(stack.tried) <= 16


def test_not_held_at_the_most() -> None:
    """Where the most does not hold, there is no answer but the reason, after one trial."""
    stack = Stack(3.0)
    answer = Search(stack.trial).least(MOST)
    assert answer.topology is None
    assert answer.words == "not held with 1x2/1G:2, the most that was tried: CPU 99 %"
    assert stack.tried == [MOST]


def scripted(rule: Callable[[Topology], str | None]) -> Trial:
    """A trial whose verdict is a rule's; None does not start."""

    def trial(topology: Topology) -> Step | None:
        verdict = rule(topology)
        words = {FAIL: "P95 1500 ms", GENERATOR_BOUND: "users came late"}.get(verdict or "", "")
        return a_step(1000, verdict=verdict, reason=words, cpus=0.1, memory=10 * MEGABYTE) if verdict else None

    return trial


def test_search_reports_when_maximum_does_not_start() -> None:
    """Where not even the most starts, that is the answer."""
    answer = Search(scripted(lambda _: None)).least(MOST)
    assert (answer.topology, answer.words) == (
        None,
        "not held with 1x2/1G:2, the most that was tried: no replica started",
    )


def test_too_small_to_start() -> None:
    """Replicas that do not start, for want of memory, count as not holding."""
    answer = Search(scripted(lambda one: PASS if (one.memory or 0) >= 200 * MEGABYTE else None)).least(MOST)
    assert answer.topology == Topology(1, 1, 0.05, 200 * MEGABYTE)
    assert answer.words == "less was not tried; 1x0.05/192M:1 did not hold"


def test_generator_bound_at_once() -> None:
    """A generator at its limit in the first trial leaves the question open."""
    answer = Search(scripted(lambda _: GENERATOR_BOUND)).least(MOST)
    assert answer.topology is None
    assert answer.words == "not known: 1x2/1G:2 was generator-bound (users came late)"


def test_generator_bound_in_the_middle() -> None:
    """One in the middle ends the search of CPU with what held so far, and memory is searched on."""

    def rule(one: Topology) -> str:
        if 0.5 <= one.cpus < 1:
            return GENERATOR_BOUND
        return PASS if one.cpus >= 0.5 and (one.memory or 0) >= 512 * MEGABYTE else FAIL

    answer = Search(scripted(rule)).least(MOST)
    assert answer.topology is not None
    assert answer.topology.cpus >= 1
    assert answer.topology.memory == 512 * MEGABYTE
    cpus, memory = answer.words.split("; ")
    assert cpus.endswith("was generator-bound, so less is not known")
    assert memory.endswith("/504M:2 did not hold")


def test_generator_bound_in_memory() -> None:
    """One in the search of memory leaves the memory that held."""
    answer = Search(scripted(lambda one: PASS if one.memory == GIGABYTE else GENERATOR_BOUND)).least(MOST)
    assert answer.topology == Topology(1, 1, 0.05, GIGABYTE)
    assert answer.words.startswith("less was not tried; ")
    assert answer.words.endswith("was generator-bound, so less is not known")


@given(
    st.floats(0.01, 4),
    st.none() | st.integers(MEGABYTE, 4 * GIGABYTE),
    st.floats(0.01, 4),
    st.integers(1, 4 * GIGABYTE),
)
def test_never_more_than_the_most(cpus: float, memory: int | None, need: float, bytes_needed: int) -> None:
    """Nothing beyond the most is tried, nor anything of no size, and what is answered was seen to hold."""
    most = Topology(1, math.ceil(cpus), cpus, memory)
    stack = Stack(need, bytes_needed)
    answer = Search(stack.trial).least(most)
    assert all(0 < one.cpus <= cpus for one in stack.tried)
    assert all(one.memory is None or 0 < one.memory <= (memory or 0) for one in stack.tried)
    assert len(stack.tried) <= 20
    if answer.topology is None:
        assert stack_fails(stack, most)
    else:
        assert answer.topology in stack.tried
        assert not stack_fails(stack, answer.topology)
