"""The workshop's four questions, answered from what was measured and no further.

A difference within the noise of :mod:`deploy.scaling.held` is called none, and a limit that was not found "at least".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.scaling.figures import cpus, every, listing, memory, number, resources, span, users
from deploy.scaling.held import GENERATOR, SLO, Held, alike, held
from deploy.scaling.replicas import for_less, one_or_many, totals
from deploy.scaling.results import Results

LEAST = "What is the least CPU and memory that held the most users?"
REPLICAS_FOR_LESS = "Can several small replicas do with less than one large?"
MOST = "How many requests per second did each hold at most?"
ONE_OR_MANY = "One replica or many, at equal CPU and memory?"

_FEW = 4  # more names than these are counted, not listed


@dataclass(frozen=True, slots=True)
class Answer:
    """A few sentences."""

    question: str
    text: str


def answers(results: Results) -> list[Answer]:
    """All four, in the workshop's order."""
    runs = held(results)
    nothing = _nothing(runs)
    kinds = [(LEAST, _least), (REPLICAS_FOR_LESS, for_less), (MOST, _most), (ONE_OR_MANY, one_or_many)]
    return [Answer(question, f"Not answered: {nothing}." if nothing else answer(runs)) for question, answer in kinds]


def headline(results: Results) -> str:
    """What held what, in one sentence."""
    runs = held(results)
    if nothing := _nothing(runs):
        return f"{nothing[0].upper()}{nothing[1:]}."
    best = _with_most(runs)
    steps = [run.step for run in best if run.step]
    rps, p95 = [step.rps for step in steps], [step.locust_p95 for step in steps]
    at = f"at {span(min(rps), max(rps))} requests/s with a P95 of {span(min(p95), max(p95))} ms"
    if len(runs) == 1:
        return f"{_names(best)} held {best[0].told}, {at}."
    if len(best) == len(runs):
        return f"{every(len(runs))} topologies held {best[0].told}, {at}."
    who = _names(best) if len(best) <= _FEW else f"{len(best)} of {len(runs)} topologies"
    return f"{who} held the most: {best[0].told}, {at}."


def _nothing(runs: Sequence[Held]) -> str:
    """Why there is no answer at all; empty where something was held."""
    if not any(run.step or run.missed for run in runs):
        return "nothing was measured"
    if any(run.step for run in runs):
        return ""
    if {run.limit for run in runs} == {GENERATOR}:
        return "every run was generator-bound from its first step"
    return "no topology held the SLO at any number of users that was measured" + _others(runs)


def _others(runs: Sequence[Held]) -> str:
    """Those of which that says nothing."""
    unknown = [run for run in runs if run.limit != SLO]
    return f"; of {_names(unknown)} it is not known" if unknown else ""


def _least(runs: Sequence[Held]) -> str:
    best = _with_most(runs)
    least = min(totals(run.topology) for run in best)
    chosen = [run for run in best if totals(run.topology) == least]
    smaller = [run for run in runs if totals(run.topology) < least]
    found, told = f"{resources(chosen[0].topology)} ({_names(chosen, ' or ')})", chosen[0].told
    if len(best) < len(runs):
        text = f"{found} held {told}, the most of all {len(runs)} topologies."
    elif len(runs) == 1:
        text = f"Only one topology was measured: {found} held {told}."
    else:
        text = f"{every(len(runs))} topologies held {told}, so the least that was measured is {found}."
    return " ".join([text, *_used(chosen[0]), _of_less(smaller)])


def _of_less(smaller: Sequence[Held]) -> str:
    if not smaller:
        return "Less was not tried."
    most = max(run.users for run in smaller)
    best = [run for run in smaller if run.users == most]
    text = f"the most was {users(most)}, by {_names(best)}" if most else "none held the SLO at all"
    unknown = [run for run in smaller if run.limit != SLO]
    why = f", but the limit of {_names(unknown)} was not found ({unknown[0].why})" if unknown else ""
    return f"Of the {len(smaller)} with less (CPU first), {text}{why}."


def _used(chosen: Held) -> list[str]:
    """What it really took there."""
    step = chosen.step
    taken = [cpus(step.cpus)] if step and step.cpus is not None else []
    taken += [memory(step.memory)] if step and step.memory is not None else []
    return [f"With these users, {chosen.topology.name} used {listing(taken)}."] if taken else []


def _most(runs: Sequence[Held]) -> str:
    peaks = [run.peak.rps for run in runs if run.peak]
    if len(peaks) == len(runs) > 1 and alike(peaks):
        known = "" if all(run.limit == SLO for run in runs) else "at least "
        text = f"{every(len(runs))} held {known}{span(min(peaks), max(peaks))} requests/s, which is no difference."
    else:
        text = f"In requests/s: {'; '.join(f'{_names(those)} {rate}' for rate, those in _rates(runs).items())}."
    return " ".join([text, *_open_ended(runs)])


def _rates(runs: Sequence[Held]) -> dict[str, list[Held]]:
    """The highest first; those with the same together."""
    rates: dict[str, list[Held]] = {}
    for run in sorted(runs, key=lambda run: run.peak.rps if run.peak else 0, reverse=True):
        peak = run.peak
        text = f"{run.at_least}{number(peak.rps)} at {users(peak.users)}" if peak else "none"
        rates.setdefault(text, []).append(run)
    return rates


def _open_ended(runs: Sequence[Held]) -> list[str]:
    """Why "at least", once for each reason."""
    reasons: dict[str, list[Held]] = {}
    for run in runs:
        if run.limit != SLO and run.step:
            reasons.setdefault(run.why, []).append(run)
    who = {why: "all" if len(those) == len(runs) > 1 else _names(those) for why, those in reasons.items()}
    return [f'"At least": {"; ".join(f"{names}: {why}" for why, names in who.items())}.'] if who else []


def _with_most(runs: Sequence[Held]) -> list[Held]:
    most = max(run.users for run in runs)
    return [run for run in runs if run.users == most]


def _names(runs: Sequence[Held], last: str = " and ") -> str:
    names = [run.topology.name for run in runs]
    return listing(names if len(names) <= _FEW else [*names[: _FEW - 1], f"{len(names) - _FEW + 1} more"], last)
