"""What one replica is good for: users that it holds, or would at its share of CPU."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.scaling.conditions import objective
from deploy.scaling.held import SLO, held
from deploy.scaling.results import Results
from deploy.scaling.step import Step
from deploy.scaling.topology import Topology


@dataclass(frozen=True, slots=True)
class Capacity:
    """``users`` are those of one replica, after ``step``, the most that its topology held.

    ``by_cpu`` where that was not its limit: then they are as many as its CPU would do for.
    """

    topology: Topology
    step: Step
    users: float
    by_cpu: bool


def capacities(results: Results) -> list[Capacity]:
    """Of every run that held something."""
    share = objective(results.conditions).cpu_percent / 100
    found = []
    for run in held(results):
        if run.step and run.step.users and run.step.rps > 0:
            most = run.users if run.limit == SLO else _by_cpu(run.step, share * run.topology.total_cpus)
            found.append(Capacity(run.topology, run.step, most / run.topology.replicas, most > run.users))
    return found


def _by_cpu(step: Step, allowed: float) -> float:
    """As many users as so many CPUs do for, at what each used; no fewer than were held."""
    return max(float(step.users), step.users * allowed / step.cpus) if step.cpus else float(step.users)
