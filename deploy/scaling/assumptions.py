"""What a projection stands on."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from deploy.scaling.capacity import Capacity
from deploy.scaling.figures import number, span
from deploy.scaling.held import NOISE
from deploy.scaling.results import Results
from deploy.scaling.spread import Range
from deploy.scaling.usl import Fit, fit, points


def assumptions(
    alike: Sequence[Results], others: int, found: Sequence[Capacity], rps: Range, nginx: Range | None
) -> list[str]:
    """In plain words. ``others`` were measured under other conditions than these, of which the newest is the last."""
    newest = alike[-1].conditions
    stretched = [one for one in found if one.by_cpu]
    most = max(one.topology.replicas for one in found)
    left_out = f", without {others} that were made under other conditions" if others else ""
    return [
        f"The machines are like the measured one: {newest.get('machine') or 'unknown'}.",
        f"Ranges go from the best to the worst of {len(found)} runs that held something, in {len(alike)} "
        f"{'folder' if len(alike) == 1 else 'folders'} of results{left_out}. "
        f"Each is taken for {NOISE:.0%} better and worse than measured.",
        "The model, the requests and the pace of the users stay as measured: "
        f"{span(rps.low, rps.high)} requests/s in all, spread evenly, with no rush at any second.",
        f"Each further replica adds as much as the measured ones: linear. "
        f"The most that was measured is {most}. They share nothing but the balancer, the network and the machines.",
        *([_STRETCHED.format(len(stretched), len(found))] if stretched else []),
        _balancer(nginx, rps),
        "What a topology holds is known to one rung of its ladder, and one that misses the SLO one rung higher has no "
        "room for a replica that fails: add some.",
        *_law(fit(points(alike)), rps),
    ]


_STRETCHED = (
    "{} of {} runs met no limit of their own, as the ladder ended or the generator was the limit: of these, the CPU "
    "that they used per user is stretched to the SLO's share of theirs, in the hope that latency holds until there."
)


def _balancer(nginx: Range | None, rps: Range) -> str:
    if nginx is None:
        return (
            "Nginx's CPU was not measured, so the balancer is left out; there has to be one that carries all requests."
        )
    return (
        f"Nginx costs as much per request at this rate as measured: {nginx * rps} CPUs. More than one machine has need "
        "several balancers, with something in front of them that is not counted here."
    )


def _law(fitted: Fit | None, rps: Range) -> list[str]:
    """What the measured contention says of one ever larger system."""
    if fitted is None:
        return []
    low, high = fitted.need(rps.high)
    text = "If one system grew on with the contention that was measured, instead of replicas that share nothing"
    if low == inf:
        return [f"{text}, no number of CPUs would do, by the fit of the Universal Scalability Law."]
    most = "no number" if high == inf else number(high)
    return [f"{text}, the fit of the Universal Scalability Law asks for {number(low)} to {most} CPUs (95 %)."]
