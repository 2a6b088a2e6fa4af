"""One replica against many: with less CPU and memory, and with the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from deploy.scaling.figures import cpus, listing, memory, number, resources, users
from deploy.scaling.held import LESS, MORE, NOISE_MS, SAME, SLO, Held, differ
from deploy.scaling.step import Step
from deploy.scaling.topology import Topology

_ROUNDING = 0.02  # shares of CPUs and of memory are rounded: 3 x 0.333 is 1


def totals(topology: Topology) -> tuple[float, float]:
    """CPUs and bytes of all replicas together; no limit is more than any."""
    return topology.total_cpus, topology.total_memory or inf


def for_less(runs: Sequence[Held]) -> str:
    """Whether several small replicas held as much as a single one that had more."""
    ones, many = _kinds(runs)
    pairs = [(few, one) for few in many for one in ones if one.users and _is_less(few.topology, one.topology)]
    if not pairs:
        return "Not answered: no several replicas with less CPU or memory in all were measured against one with more."
    does = [pair for pair in pairs if pair[0].against(pair[1]) in (SAME, MORE)]
    if does:
        return _yes(*max(does, key=lambda pair: (pair[1].users, -totals(pair[0].topology)[0])), ones)
    doubtful = [pair for pair in pairs if pair[0].against(pair[1]) != LESS]
    if doubtful:
        few, one = max(doubtful, key=lambda pair: pair[0].users)
        return f"Not answered: {_with(one)} held {one.told}; {_with(few)} held {few.told}, and {few.why}."
    few, one = max(pairs, key=lambda pair: pair[0].users / pair[1].users)
    return (
        f"No: several replicas with less in all held fewer users. "
        f"The nearest was {_with(few)} with {few.told}, against {_with(one)} with {one.told}."
    )


def one_or_many(runs: Sequence[Held]) -> str:
    """Of equal CPU and memory, the best single replica against the best of several; the three largest sizes."""
    sizes: list[list[Held]] = []
    for run in sorted(runs, key=lambda run: totals(run.topology), reverse=True):
        if sizes and _is_equal(sizes[-1][0].topology, run.topology):
            sizes[-1].append(run)
        else:
            sizes.append([run])
    pairs = [(max(ones, key=_rank), max(many, key=_rank)) for ones, many in map(_kinds, sizes) if ones and many]
    if not pairs:
        return "Not answered: no single replica and several of equal CPU and memory in all were measured."
    return " ".join(_duel(one, many) for one, many in pairs[:3])


def _yes(few: Held, one: Held, ones: Sequence[Held]) -> str:
    as_many = "as many as" if few.users == one.users else "no fewer, beyond the noise, than"
    as_many = "more than" if few.against(one) == MORE else as_many
    so_far = "" if SLO in (few.limit, one.limit) else f", for the {users(min(few.users, one.users))} that were measured"
    text = f"Yes{so_far}: {_with(few)} held {few.told}, {as_many} {_with(one)} with {one.told}."
    small = [run for run in ones if not _is_less(few.topology, run.topology) and run.against(few) in (SAME, MORE)]
    if not small:
        return text
    least = min(small, key=lambda run: totals(run.topology))
    return f"{text} But it is not the replicas that save it: {_with(least)} held {least.told} too."


def _duel(one: Held, many: Held) -> str:
    size, said = resources(one.topology), many.against(one)
    both = f"{one.topology.name} held {one.told}, {many.topology.name} {many.told}"
    if said == MORE:
        return f"With {size}, several replicas held more: {both}."
    if said == LESS:
        return f"With {size}, one replica held more: {both}."
    if said == SAME:
        return f"With {size}, no difference in users held: {both}{_at_equal_users(one, many)}."
    # The one with fewer users, if it might hold more, is what stands between them and an answer.
    open_ended = min((run for run in (one, many) if run.limit != SLO), key=lambda run: run.users, default=many)
    return f"With {size}, not answered: {both}, and of {open_ended.topology.name}: {open_ended.why}."


def _at_equal_users(one: Held, many: Held) -> str:
    """What else told them apart, at the most users that both held."""
    common = max({step.users for step in one.passed} & {step.users for step in many.passed}, default=None)
    if common is None:
        return ""
    first, second = (next(step for step in run.passed if step.users == common) for run in (one, many))
    found = _differences(first, second)
    return f"; at {users(common)}: {listing(found) or 'P95, CPU and memory differed no more than the noise'}"


def _differences(one: Step, many: Step) -> list[str]:
    found = []
    if differ(one.locust_p95, many.locust_p95, NOISE_MS):
        found.append(f"P95 {number(one.locust_p95)} against {number(many.locust_p95)} ms")
    if one.cpus is not None and many.cpus is not None and differ(one.cpus, many.cpus):
        found.append(f"{cpus(one.cpus)} against {cpus(many.cpus)} used")
    if one.memory is not None and many.memory is not None and differ(one.memory, many.memory):
        found.append(f"memory {memory(one.memory)} against {memory(many.memory)}")
    return found


def _kinds(runs: Sequence[Held]) -> tuple[list[Held], list[Held]]:
    return [run for run in runs if run.topology.replicas == 1], [run for run in runs if run.topology.replicas > 1]


def _rank(run: Held) -> tuple[int, float]:
    return run.users, -run.step.locust_p95 if run.step else 0.0


def _with(run: Held) -> str:
    return f"{run.topology.name} ({resources(run.topology)} in all)"


def _is_less(one: Topology, other: Topology) -> bool:
    """In one of the two, and no more in the other."""
    mine, others = totals(one), totals(other)
    no_more = all(a <= b * (1 + _ROUNDING) for a, b in zip(mine, others, strict=True))
    return no_more and any(a < b * (1 - _ROUNDING) for a, b in zip(mine, others, strict=True))


def _is_equal(one: Topology, other: Topology) -> bool:
    return all(a == b or abs(a - b) <= _ROUNDING * b for a, b in zip(totals(one), totals(other), strict=True))
