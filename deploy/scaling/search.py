"""The least that holds the objective for so many users: CPU first, then memory, by halving what is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from deploy.scaling.step import FAIL, PASS, Step
from deploy.scaling.topology import Topology

# What one topology showed; None where its replicas did not start.
Trial = Callable[[Topology], Step | None]

MEGABYTE = 1 << 20
# The finest differences that are told apart: CPUs, and bytes.
CPU_GRAIN, MEMORY_GRAIN = 0.05, 8 * MEGABYTE
# What the objective leaves of a limit (deploy/scaling/slo.py).
_SHARE = 0.9


_Maker = Callable[[Topology, int], Topology]


@dataclass(frozen=True, slots=True)
class _Half:
    """The least so far that held, the step that showed it, and what is known of less."""

    topology: Topology
    step: Step
    words: str


@dataclass(slots=True)
class Answer:
    """The least that was seen to hold, None where nothing did; and how sure that is, in words."""

    topology: Topology | None
    words: str


@dataclass(frozen=True, slots=True)
class Search:
    """Tries one topology after another. ``cpu_grain`` is 1 where CPUs come whole."""

    trial: Trial
    cpu_grain: float = CPU_GRAIN

    def least(self, most: Topology) -> Answer:
        """Of CPU and, if ``most`` has a limit of it, of memory: no more than ``most`` has."""
        first = self.trial(most)
        if first is None or first.verdict == FAIL:
            why = first.reason if first else "no replica started"
            return Answer(None, f"not held with {most.name}, the most that was tried: {why}")
        if first.verdict != PASS:
            return Answer(None, f"not known: {most.name} was generator-bound ({first.reason})")
        best = self._cpus(_Half(most, first, "less was not tried"))
        if best.topology.memory is None:
            return Answer(best.topology, best.words)
        cpus, best = best.words, self._memory(replace(best, words="less memory was not tried"))
        return Answer(best.topology, f"{cpus}; {best.words}")

    def _cpus(self, best: _Half) -> _Half:
        guess = _guess(best.step.cpus, best.topology, self.cpu_grain)
        return self._halved(best, round(best.topology.cpus / self.cpu_grain), guess, self._with_cpus)

    def _memory(self, best: _Half) -> _Half:
        guess = _guess(best.step.memory, best.topology, MEMORY_GRAIN)
        return self._halved(best, (best.topology.memory or 0) // MEMORY_GRAIN, guess, _with_memory)

    def _halved(self, best: _Half, high: int, guess: int, make: _Maker) -> _Half:
        """Halve the grains between what did not hold and what did, after one guess."""
        low, most = 0, best.topology
        while high - low > 1:
            middle, guess = (guess if low < guess < high else (low + high) // 2), 0
            topology = make(most, middle)
            step = self.trial(topology)
            if step and step.verdict == PASS:
                high, best = middle, _Half(topology, step, best.words)
            elif step is None or step.verdict == FAIL:
                low, best = middle, replace(best, words=f"{topology.name} did not hold")
            else:
                return replace(best, words=f"{topology.name} was generator-bound, so less is not known")
        return best

    def _with_cpus(self, topology: Topology, grains: int) -> Topology:
        """On other CPUs, with a worker for each that it begins."""
        cpus = round(grains * self.cpu_grain, 3)
        return replace(topology, cpus=cpus, workers=math.ceil(cpus))


def _with_memory(topology: Topology, grains: int) -> Topology:
    return replace(topology, memory=grains * MEMORY_GRAIN)


def _guess(used: float | None, topology: Topology, grain: float) -> int:
    """What would just do by what was used, and a grain more."""
    return math.ceil((used or 0) / _SHARE / topology.replicas / grain) + 1
