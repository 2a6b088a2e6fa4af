"""What more CPUs bring: speed-up and efficiency, with the fit of the Universal Scalability Law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from deploy.scaling.chart import BOUND, colour, dress, figure, key, svg
from deploy.scaling.document import Picture
from deploy.scaling.usl import Fit, Point

_CAPTION = (
    "Each point is the most requests per second that a topology held, of those whose limit was found. "
    "Efficiency is what a CPU does there, of what it does in the best of the smallest; each is known to one rung of "
    "the ladder only."
)


def speedup(points: Sequence[Point], fitted: Fit | None) -> Picture | None:
    """Over the fewest CPUs measured; None where all had as many."""
    across = sorted({point.cpus for point in points})
    base = max((point.rps for point in points if point.cpus == across[0]), default=0.0)
    if len(across) == 1 or not base:
        return None
    drawn, (left, right) = figure(9, 4.2, columns=2)
    drawn.subplots_adjust(left=0.075, right=0.975, wspace=0.2)
    unit = f"{across[0]:g} CPU{'s' if across[0] != 1 else ''}"
    _draw(left, points, fitted, lambda _: 1 / base, f"speed-up over {unit}")
    _draw(right, points, fitted, lambda n: 100 * across[0] / (base * n), "efficiency in %")
    left.plot([across[0], across[-1]], [1, across[-1] / across[0]], **BOUND)
    right.axhline(100, **BOUND)
    marks: list[tuple[str, dict[str, Any]]] = [("held at most", {"marker": "o", "markersize": 5}), ("linear", BOUND)]
    key(left, marks + ([("fit, with its 95 % band", {"color": colour(1), "linestyle": "-"})] if fitted else []))
    for axes in (left, right):
        axes.set(xlim=(0, across[-1] * 1.05), ylim=(0, 1.05 * axes.get_ylim()[1]))
    return Picture("Speed-up and efficiency against CPUs", _CAPTION, svg(drawn, "speedup"))


def _draw(axes: Axes, points: Sequence[Point], fitted: Fit | None, scale: Any, up: str) -> None:
    """``scale`` makes what is drawn at so many CPUs out of requests per second."""
    dress(axes, "CPUs of all replicas", up)
    axes.plot([p.cpus for p in points], [p.rps * scale(p.cpus) for p in points], "o", color=colour(0), markersize=5)
    if fitted:
        low, high = min(p.cpus for p in points), max(p.cpus for p in points)
        across = [low + (high - low) * i / 60 for i in range(61)]
        low_ends, high_ends = zip(*([rps * scale(n) for rps in fitted.band(n)] for n in across), strict=True)
        axes.plot(across, [fitted.at(n) * scale(n) for n in across], color=colour(1))
        axes.fill_between(across, low_ends, high_ends, color=colour(1), alpha=0.2, linewidth=0)
