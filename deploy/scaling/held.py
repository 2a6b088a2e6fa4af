"""What a run held: how far up the ladder it kept the objective, and what ended that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from deploy.scaling.figures import users
from deploy.scaling.results import Results, Run
from deploy.scaling.step import FAIL, PASS, Step
from deploy.scaling.topology import Topology

# What two measurements of the same thing may differ by: smaller differences are none.
NOISE = 0.10
NOISE_MS = 3.0

SLO, GENERATOR, TOP, CUT = "slo", "generator", "top", "cut"
SAME, LESS, MORE, UNKNOWN = "same", "less", "more", "unknown"


@dataclass(frozen=True, slots=True)
class Held:
    """``passed`` are the steps that held the objective below the first that missed it.

    A generator-bound step in between is neither. ``missed`` is the step after the last that passed, and ``limit`` what
    ended the run there: the objective, the generator, the top of the ladder or an interruption. Only the objective says
    that the topology holds no more.
    """

    topology: Topology
    passed: Sequence[Step]
    missed: Step | None
    limit: str
    ended: str

    @classmethod
    def of(cls, run: Run) -> Held:
        """Read a run, whose steps may be in any order."""
        failed = min((step.users for step in run.steps if step.verdict == FAIL), default=inf)
        passed = [step for step in run.steps if step.verdict == PASS and step.users < failed]
        most = max((step.users for step in passed), default=0)
        others = [step for step in run.steps if step.verdict != PASS and step.users > most]
        missed = min(others, key=lambda step: (step.users, step.verdict != FAIL), default=None)
        return cls(run.topology, tuple(passed), missed, _limit(run, missed), run.ended)

    @property
    def step(self) -> Step | None:
        """The one with the most users."""
        return max(self.passed, key=lambda step: step.users, default=None)

    @property
    def peak(self) -> Step | None:
        """The one with the most requests per second."""
        return max(self.passed, key=lambda step: step.rps, default=None)

    @property
    def users(self) -> int:
        """The most held; 0 where no step was."""
        return self.step.users if self.step else 0

    @property
    def told(self) -> str:
        """The most users held, for people."""
        return f"{self.at_least}{users(self.users)}" if self.step else "none"

    @property
    def at_least(self) -> str:
        """The words where more was not refuted."""
        return "" if self.limit == SLO else "at least "

    @property
    def why(self) -> str:
        """What ended it, for people."""
        missed = users(self.missed.users) if self.missed else ""
        if self.limit == SLO and self.missed:
            return f"missed the SLO at {missed}" + (f": {self.missed.reason}" if self.missed.reason else "")
        if self.limit == GENERATOR:
            held = f"what it holds beyond {users(self.users)}" if self.step else "what it holds"
            return f"{held} was not measured: the generator was the limit at {missed}"
        if self.limit == TOP:
            return "held to the top of the ladder"
        return self.ended or "interrupted"

    def against(self, other: Held) -> str:
        """Whether this one holds more users, less, or the same for all that was measured, if that can be known."""
        low, high = sorted((self, other), key=lambda one: one.users)
        if high.users < low.users * (1 + NOISE) or not high.users:
            return SAME if high.users else UNKNOWN
        if low.limit != SLO or low.missed is None or high.users < low.missed.users:
            return UNKNOWN
        # What the lower one holds lies anywhere below its first miss.
        if low.step and high.users < low.missed.users * (1 + NOISE):
            return SAME
        return MORE if high is self else LESS


def held(results: Results) -> list[Held]:
    """What each run held, in the order of the runs; a topology that did not start held nothing."""
    return [Held.of(run) for run in results.runs]


def differ(one: float, other: float, least: float = 0.0) -> bool:
    """Whether two figures are further apart than the noise, and than ``least``."""
    return abs(one - other) >= max(NOISE * max(abs(one), abs(other)), least) and one != other


def alike(values: Sequence[float]) -> bool:
    """Whether no two of them differ by more than the noise."""
    return not differ(min(values), max(values))


def _limit(run: Run, missed: Step | None) -> str:
    if missed:
        return SLO if missed.verdict == FAIL else GENERATOR
    return TOP if run.done and run.steps and not run.ended else CUT
