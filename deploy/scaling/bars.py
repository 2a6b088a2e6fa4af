"""Which topology held how many users, as a bar each."""

from __future__ import annotations

from matplotlib.figure import Figure

from deploy.scaling.chart import FAINT, FONT, INK, PAPER, colour, dress, figure
from deploy.scaling.figures import number, users
from deploy.scaling.held import GENERATOR, SLO, TOP, Held, held
from deploy.scaling.results import Results

_BAR = 0.62
_WHY = {GENERATOR: "the generator's limit", TOP: "the top of the ladder"}


def bars(results: Results) -> Figure:
    """From the top in the order of the runs, in the colours that these have in all plots."""
    runs = held(results)
    height = 0.9 + 0.36 * len(runs)
    drawn, (axes,) = figure(9, height)
    drawn.subplots_adjust(left=0.17, bottom=0.55 / height, top=1 - 0.1 / height, right=0.98)
    dress(axes, "users", "")
    axes.grid(axis="y", visible=False)
    most = max(run.users for run in runs) or 1
    for row, run in enumerate(runs):
        axes.barh(row, run.users, _BAR, color=colour(row))
        if run.step and run.limit != SLO:
            ends = [row - _BAR / 2, row + _BAR / 2]
            axes.plot([run.users] * 2, ends, color=PAPER, linewidth=3, linestyle=(0, (1, 1)))
        axes.annotate(
            _words(run), (run.users, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=FONT - 1,
            color=INK if run.step else FAINT,
        )  # fmt: skip
    axes.set(xlim=(0, most * 2.1), ylim=(len(runs) - 0.4, -0.6))
    axes.set_yticks(range(len(runs)), [run.topology.name for run in runs])
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= most])
    axes.tick_params(axis="y", length=0)
    return drawn


def _words(run: Held) -> str:
    if not run.step:
        return f"none of {users(run.missed.users)}" if run.missed else "no step measured"
    text = f"{run.at_least}{run.users:,}, at {number(run.step.rps)} requests/s"
    return text if run.limit == SLO else f"{text} ({_WHY.get(run.limit, 'interrupted')})"
