"""How many replicas and CPUs so many users would need: a projection from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil, inf

from deploy.errors import CommandError
from deploy.scaling.assumptions import assumptions
from deploy.scaling.capacity import Capacity, capacities
from deploy.scaling.figures import cpus, memory, number, users
from deploy.scaling.held import NOISE
from deploy.scaling.results import Results
from deploy.scaling.spread import Range
from deploy.scaling.topology import Topology
from deploy.stack.text_table import table


@dataclass(frozen=True, slots=True)
class Size:
    """So many replicas of one size; ``used`` is the memory that one of them took, in bytes."""

    replica: Topology
    replicas: Range
    used: Range | None
    runs: int

    @property
    def cpus(self) -> Range:
        """Of all of them together."""
        return self.replicas * self.replica.cpus

    @property
    def memory(self) -> str:
        """Of all of them together: their limits, or what they used where they had none."""
        if self.replica.memory:
            least, most = (
                memory(ceil(count) * self.replica.memory) for count in (self.replicas.low, self.replicas.high)
            )
        elif self.used:
            least, most = memory(self.replicas.low * self.used.low), memory(self.replicas.high * self.used.high)
        else:
            return "not measured"
        return least if least == most else f"{least} to {most}"


@dataclass(frozen=True, slots=True)
class Projection:
    """The sizes are sorted, that with the fewest CPUs at worst first."""

    users: int
    rps: Range
    per_user: Range
    sizes: Sequence[Size]
    nginx: Range | None
    nginx_us: Range | None
    assumptions: Sequence[str]

    @property
    def best(self) -> Size:
        """The one that needs the fewest CPUs at worst."""
        return self.sizes[0]

    def lines(self) -> list[str]:
        """For people."""
        size = self.best
        total = size.cpus + self.nginx if self.nginx else size.cpus
        over = Range.over([end for one in self.sizes for end in (one.cpus.low, one.cpus.high)])
        figures = [
            ["requests", f"{self.rps} a second, at {self.per_user} a user"],
            ["replicas", f"{size.replicas} of {_told(size.replica)}: {size.cpus} CPUs, memory {size.memory}"],
            ["Nginx", f"{self.nginx} CPUs, at {self.nginx_us} us a request" if self.nginx else "not measured"],
            ["in all", f"{total} CPUs; {over} for the replicas over all sizes that were measured"],
        ]
        return [
            f"PROJECTION, not a measurement: what {users(self.users)} would need", "", *table(figures), "",
            *table([_HEAD, *([*map(str, _row(one))] for one in self.sizes)]), "",
            "It holds as far as these assumptions do:", *(f"- {one}" for one in self.assumptions),
        ]  # fmt: skip


def projection(results_list: Sequence[Results], users: int) -> Projection:
    """From all runs that were made under the conditions of the newest usable one.

    Raises:
        CommandError: no step passed yet.
    """
    alike, others = _alike(results_list)
    found = [one for results in alike for one in capacities(results)]
    if not found:
        raise CommandError("no step that held the SLO was measured yet, so nothing can be projected: make compare")
    per_user = Range.over(one.step.rps / one.step.users for one in found)
    costs = [one.step.nginx_cpus / one.step.rps for one in found if one.step.nginx_cpus is not None]
    nginx = Range.over(costs) if costs else None
    rps = per_user * users
    return Projection(
        users, rps, per_user, _sizes(found, users), nginx * rps if nginx else None, nginx * 1e6 if nginx else None,
        assumptions(alike, others, found, rps, nginx),
    )  # fmt: skip


_HEAD = ("CPUs", "memory", "workers", "replicas", "CPUs in all", "memory in all", "measured runs")


def _row(size: Size) -> tuple[object, ...]:
    one = size.replica
    return (
        number(one.cpus), memory(one.memory) if one.memory else "no limit", one.workers, size.replicas, size.cpus,
        size.memory, size.runs,
    )  # fmt: skip


def _told(replica: Topology) -> str:
    workers = "1 worker" if replica.workers == 1 else f"{replica.workers} workers"
    return f"{cpus(replica.cpus)}, {memory(replica.memory)} and {workers} each"


def _alike(results_list: Sequence[Results]) -> tuple[list[Results], int]:
    """Those that may be put together with the newest usable one, which is the last; and how many may not."""
    usable = [results for results in results_list if capacities(results)]
    alike = [results for results in usable if _conditions(results) == _conditions(usable[-1])]
    return alike, len(usable) - len(alike)


def _conditions(results: Results) -> list[object]:
    """The machine without its commit, which its words end with."""
    told = results.conditions
    machine = str(told.get("machine")).partition("; commit")[0]
    return [machine, *(told.get(name) for name in ("backend", "model", "user", "slo"))]


def _sizes(found: Sequence[Capacity], users: int) -> list[Size]:
    def replica(one: Capacity) -> Topology:
        return replace(one.topology, replicas=1)

    def order(one: Capacity) -> tuple[float, ...]:
        return one.topology.cpus, one.topology.memory or inf, one.topology.workers

    sizes = []
    for one, group in groupby(sorted(found, key=order), replica):
        runs = list(group)
        used = [run.step.memory / run.topology.replicas for run in runs if run.step.memory is not None]
        replicas = Range.over(ceil(users / (run.users * noise)) for run in runs for noise in (1 - NOISE, 1 + NOISE))
        sizes.append(Size(one, replicas, Range.over(used) if used else None, len(runs)))
    return sorted(sizes, key=lambda size: (size.cpus.high, size.replica.memory or inf))
