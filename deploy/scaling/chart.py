"""How plots look: axes, colours that a page may exchange in the dark, labels at the ends of lines, SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Told apart by the colour-blind too, on white; the page has a brighter set for the dark, under the same names.
INK, FAINT, GRID, PAPER = "#1a1b1c", "#6a6b6c", "#dcdddf", "#fefefd"
SERIES = ("#0072b2", "#d55e00", "#00835f", "#aa3377", "#8a6d00", "#2a93bc", "#6b4fbb", "#55565a")
VARIABLES = {INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "paper"} | {
    colour: f"series-{i}" for i, colour in enumerate(SERIES)
}
FONT = 10.0
# A line that nothing measured is on: a bound, or an ideal.
BOUND: dict[str, Any] = {"color": FAINT, "linestyle": (0, (1, 2)), "linewidth": 1.6, "zorder": 1}


@dataclass(frozen=True, slots=True)
class Label:
    """Words at a point of the data."""

    x: float
    y: float
    text: str
    colour: str


def colour(number: int) -> str:
    """Of a series."""
    return SERIES[number % len(SERIES)]


def figure(width: float = 9.0, height: float = 4.6, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Empty axes on nothing, with room for labels at the right of each."""
    drawn = Figure(figsize=(width, height), facecolor="none")
    axes = drawn.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.5, "hspace": 0.35})
    drawn.subplots_adjust(left=0.085, right=0.845, bottom=0.13, top=0.9)
    return drawn, list(axes.flat)


def dress(axes: Axes, across: str, up: str, title: str = "") -> None:
    """Name the axes, and leave out all lines that carry nothing."""
    axes.set_facecolor("none")
    axes.set_xlabel(across, color=INK, fontsize=FONT)
    axes.set_ylabel(up, color=INK, fontsize=FONT)
    axes.set_title(title, color=INK, fontsize=FONT + 2, loc="left", pad=26)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=FONT - 1, length=3)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set(visible=side == "bottom", color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, min_n_ticks=2, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def key(axes: Axes, lines: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """What the marks mean, above the plot and in no series' colour."""
    for text, style in lines:
        axes.plot([], [], **{"color": FAINT, "linestyle": "none", **style}, label=text)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(lines), frameon=False, fontsize=FONT - 1,
        labelcolor=INK, handletextpad=0.3, columnspacing=1.5, borderaxespad=0.2,
    )  # fmt: skip


def name(axes: Axes, labels: Sequence[Label], marks: Sequence[tuple[float, float]] = ()) -> None:
    """Write each label to the right of its point, or as near above or below as covers no other label and no mark.

    The limits of the axes have to be final.
    """
    size = axes.get_window_extent()
    scale = FONT / 72 * axes.figure.dpi
    taken = [(x, x, y) for x, y in axes.transData.transform(marks) - (size.x0, size.y0)] if marks else []
    for label in sorted(labels, key=lambda label: (-label.x, -label.y)):
        x, y = axes.transData.transform((label.x, label.y)) - (size.x0, size.y0)
        left, right = x + 0.9 * scale, x + (0.9 + 0.62 * len(label.text)) * scale
        others = [up for start, end, up in taken if start < right and left < end]
        up = _nearest_free(y, 1.25 * scale, size.height, others)
        taken.append((left, right, up))
        _write(axes, label, (left / size.width, up / size.height), moved=abs(up - y) > 0.6 * scale)


def svg(drawn: Figure, salt: str) -> str:
    """One element for a page, its colours variables of the page, its ids its own, equal for equal figures."""
    text = StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "path"}):
        drawn.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    found = text.getvalue()
    found = re.sub(r"<metadata>.*?</metadata>", "", found[found.index("<svg") :], flags=re.DOTALL)
    for plain, variable in VARIABLES.items():
        found = found.replace(plain, f"var(--{variable})")
    return found


def _nearest_free(wanted: float, line: float, height: float, others: Sequence[float]) -> float:
    """The height nearest to the wanted one that no other label covers; that one where all are covered."""
    steps = [wanted + sign * line * i / 4 for i in range(int(4 * height / line) + 1) for sign in (-1, 1)]
    free = (up for up in steps if 0 <= up <= height and all(abs(up - other) >= 0.9 * line for other in others))
    return next(free, wanted)


def _write(axes: Axes, label: Label, place: tuple[float, float], *, moved: bool) -> None:
    pointer = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4, "zorder": 2}
    written = axes.annotate(
        label.text, (label.x, label.y), xytext=place, textcoords="axes fraction", color=label.colour,
        fontsize=FONT - 0.5, va="center", annotation_clip=False, arrowprops=pointer if moved else None,
    )  # fmt: skip
    written.set_path_effects([withStroke(linewidth=2.5, foreground=PAPER)])
