"""What was measured, drawn: requests and latency and CPU against users, and speed-up against CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.scaling.bars import bars
from deploy.scaling.chart import BOUND, FAINT, PAPER, Label, colour, dress, figure, key, name, svg
from deploy.scaling.conditions import objective
from deploy.scaling.document import Picture
from deploy.scaling.results import Results
from deploy.scaling.slo import Slo
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step

MAIN = "plot.png"
_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    PASS: ("held", {"marker": "o", "markersize": 5}),
    FAIL: ("missed the SLO", {"marker": "X", "markersize": 7, "markeredgewidth": 0}),
    GENERATOR_BOUND: ("generator-bound", {"marker": "o", "markersize": 5.5, "markerfacecolor": PAPER}),
}
_NGINX: tuple[str, dict[str, Any]] = ("P95 by Nginx's clock", {"linestyle": (0, (4, 2)), "linewidth": 1.0})
_LEAST_MS = 1.0  # both clocks count whole milliseconds: less is drawn as one

Marks = list[tuple[float, float]]
Series = Sequence[tuple[str, str, Sequence[Step]]]


def plots(results: Results) -> list[Picture]:
    """Against users; nothing where there is no step."""
    series, slo = _series(results), objective(results.conditions)
    if not series:
        return []
    held = Picture("Users held at most", _HELD, svg(bars(results), "bars"), "" if _is_ladder(series) else MAIN)
    if not _is_ladder(series):
        return [held]
    found = [
        held,
        Picture("Requests per second against users", _THROUGHPUT, _draw(throughput, series, slo), MAIN),
        Picture("95 % of the requests took no longer than", _LATENCY, _draw(latency, series, slo)),
    ]
    if any(step.cpu_percent is not None for _, _, steps in series for step in steps):
        found.append(Picture("CPU against users", _CPU, _draw(cpu, series, slo)))
    return found


def save_main(results: Results) -> Path | None:
    """Requests and latency against users, or what was held of a single number, as PNG where SVG is not shown."""
    series = _series(results)
    if not series:
        return None
    drawn = _main(series, objective(results.conditions)) if _is_ladder(series) else bars(results)
    path = results.folder / MAIN
    drawn.savefig(path, dpi=130, facecolor="white")
    return path


def throughput(axes: Axes, series: Series, _: Slo, title: str = "") -> None:
    """With the line that users would draw who never wait for an answer."""
    dress(axes, "users", "requests per second", title)
    labels, marks = _lines(axes, series, lambda step: step.rps)
    most, pace = _most(series), _pace(series)
    ideal = [(f"no waiting: each user asks every {pace:.3g} s", BOUND)] if pace else []
    if pace:
        axes.plot([0, most], [0, most / pace], **BOUND)
    axes.set(xlim=(0, most * 1.02), ylim=(0, 1.05 * axes.get_ylim()[1]))
    _key(axes, series, *ideal)
    name(axes, labels, marks)


def latency(axes: Axes, series: Series, slo: Slo, title: str = "") -> None:
    """By both clocks, with the bound."""
    axes.set_yscale("log")
    dress(axes, "users", "P95 in ms (logarithmic)", title)
    labels, marks = _lines(axes, series, lambda step: max(step.locust_p95, _LEAST_MS))
    for _, shade, steps in series:
        values = [max(step.nginx_p95, _LEAST_MS) for step in steps]
        axes.plot([step.users for step in steps], values, color=shade, zorder=2, **_NGINX[1])
    _horizon(axes, series, slo.p95_ms, f"SLO: {slo.p95_ms:,g} ms")
    axes.set_ylim(axes.get_ylim()[0] / 1.5, axes.get_ylim()[1] * 1.2)
    _key(axes, series, _NGINX)
    name(axes, labels, marks)


def cpu(axes: Axes, series: Series, slo: Slo, title: str = "") -> None:
    """Of the replica that is nearest to its limit."""
    dress(axes, "users", "CPU in % of the limit", title)
    labels, marks = _lines(axes, series, lambda step: nan if step.cpu_percent is None else step.cpu_percent)
    _horizon(axes, series, slo.cpu_percent, f"SLO: {slo.cpu_percent:g} %")
    axes.set_ylim(0, max(112.0, 1.05 * axes.get_ylim()[1]))
    _key(axes, series)
    name(axes, labels, marks)


def _main(series: Series, slo: Slo) -> Figure:
    drawn, (above, below) = figure(9, 9.4, rows=2)
    drawn.subplots_adjust(bottom=0.065, top=0.935)
    throughput(above, series, slo, "Requests per second against users")
    latency(below, series, slo, "P95 against users")
    return drawn


def _is_ladder(series: Series) -> bool:
    """Whether there are two numbers of users, without which a line says nothing."""
    return len({step.users for _, _, steps in series for step in steps}) > 1


def _series(results: Results) -> Series:
    """Name, colour and steps by users, of each run that has some."""
    return [
        (run.topology.name, colour(i), sorted(run.steps, key=lambda step: step.users))
        for i, run in enumerate(results.runs)
        if run.steps
    ]


def _draw(draw: Callable[[Axes, Series, Slo], None], series: Series, slo: Slo) -> str:
    drawn, (axes,) = figure()
    draw(axes, series, slo)
    return svg(drawn, draw.__name__)


def _lines(axes: Axes, series: Series, measure: Callable[[Step], float]) -> tuple[list[Label], Marks]:
    """A line a series, broken where the generator was the limit, its marks telling the verdicts; labels, and marks."""
    labels: list[Label] = []
    marks: Marks = []
    for text, shade, steps in series:
        found = [(step, measure(step)) for step in steps if not isnan(measure(step))]
        joined = [nan if step.verdict == GENERATOR_BOUND else y for step, y in found]
        axes.plot([step.users for step, _ in found], joined, color=shade, linewidth=1.8, zorder=3)
        for verdict, (_, style) in _MARKS.items():
            there = [(step.users, y) for step, y in found if step.verdict == verdict]
            axes.plot([x for x, _ in there], [y for _, y in there], color=shade, linestyle="none", zorder=4, **style)
        marks += [(step.users, y) for step, y in found]
        labels += [Label(*marks[-1], text, shade)] if found else []
    return labels, marks


def _key(axes: Axes, series: Series, *more: tuple[str, dict[str, Any]]) -> None:
    """Explain the marks that are there."""
    there = {step.verdict for _, _, steps in series for step in steps}
    key(axes, [*(mark for verdict, mark in _MARKS.items() if verdict in there), *more])


def _horizon(axes: Axes, series: Series, bound: float, text: str) -> None:
    """A line across that no step may touch, named at its left end, where few lines come near it."""
    axes.axhline(bound, **BOUND)
    axes.set_xlim(0, 1.02 * _most(series))
    axes.annotate(text, (0, bound), xytext=(4, 3), textcoords="offset points", color=FAINT, fontsize=9)


def _most(series: Series) -> int:
    return max(step.users for _, _, steps in series for step in steps)


def _pace(series: Series) -> float | None:
    """Seconds between two requests of a user, less its wait for the answer: what Little's law makes of the steps."""
    steps = [step for _, _, steps in series for step in steps if step.rps > 0]
    waits = [step.users / step.rps - step.locust_mean / 1000 for step in steps]
    return median(waits) if waits and median(waits) > 0 else None


_THROUGHPUT = (
    "Higher is better. Users wait for their answer before they ask again, so a line that leaves the dotted one belongs "
    "to a topology that keeps them waiting. Where all lie on it, all were asked for less than they can do."
)
_HELD = (
    "The most users at which each topology passed the SLO, below its first miss. A frayed end means at "
    "least: no step missed the SLO."
)
_LATENCY = (
    "Lower is better. Where Nginx's dashed line lies far below the marks, the requests waited in Locust, not in the "
    "service: such steps are hollow, and say nothing of the topology."
)
_CPU = (
    "Of the replica that is nearest to its limit. At 100 % it has no CPU left; one that misses the SLO well below that "
    "waits for something else."
)
