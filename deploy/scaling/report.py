"""The report of a folder of results: ``report.md``, ``report.html`` and ``plot.png``, made of its steps alone."""

from __future__ import annotations

from pathlib import Path

from deploy.scaling.answers import answers, headline
from deploy.scaling.conditions import notes, rows
from deploy.scaling.document import Block, Bullets, Document, Section, Table, Text
from deploy.scaling.held import CUT, held
from deploy.scaling.markdown import markdown
from deploy.scaling.page import page
from deploy.scaling.plots import plots, save_main
from deploy.scaling.results import Results
from deploy.scaling.speedup import speedup
from deploy.scaling.tables import all_steps, workshop
from deploy.scaling.usl import fit, points, why_not
from deploy.stack.text_table import table

_HOW_TO_READ = (
    "A topology is written REPLICASxCPUS/MEMORY:WORKERS; CPUs, memory and workers are each replica's. The tables' CPU "
    "and RAM are of all replicas together.",
    "Held is the most users at a step that passed the SLO, below the first step that missed it: one above that counts "
    "for nothing, even if it passed.",
    "A step is generator-bound where Locust, not the service, set the latency or the throughput. It is neither a pass "
    'nor a miss. Where no step above it passed, nothing beyond is known: "at least" stands before what was held.',
    "Two clocks: Locust's P95 is what a user waits for, Nginx's is the same requests from their arrival there to their "
    "last byte. Where both agree, the service is what is slow; where Locust's is far above, Locust or its machine is.",
    "Differences below 10 %, and below 3 ms of P95, are called none. What a topology holds is known to one rung of the "
    "ladder only.",
)


def write_report(results: Results) -> Path:
    """Write all three into the folder; the page's path."""
    told = document(results)
    save_main(results)
    (results.folder / "report.md").write_text(markdown(told))
    path = results.folder / "report.html"
    path.write_text(page(told))
    return path


def summary(results: Results) -> list[str]:
    """The conclusion and the workshop's table, for a terminal."""
    told = workshop(results)
    sought = [str(answer)] if (answer := results.conditions.get("answer")) else []
    return [*(sought or [headline(results)]), "", *table([told.head, *told.rows])]


def document(results: Results) -> Document:
    """What there is to tell, from the conclusion to its conditions."""
    sought = str(results.conditions.get("answer") or "")
    sections = [
        Section("What was sought", [Text(sought)] if sought else []),
        Section("Four questions", [Text(answer.text, answer.question) for answer in answers(results)]),
        Section("Plots", [*plots(results), *_scaling(results)] if results.steps else []),
        Section("What each topology held", [workshop(results)] if results.steps else []),
        Section("Every step", [all_steps(results)] if results.steps else []),
        Section("Conditions", [Table(("what", "value"), rows(results.conditions))]),
        Section("Notes", _bullets([*notes(results.conditions), *_unfinished(results)])),
        Section("How to read it", [Bullets(_HOW_TO_READ)]),
    ]
    name = str(results.conditions.get("verb") or "measured")
    return Document(f"Forkcast scaling lab: {name}", headline(results), [one for one in sections if one.blocks])


def _scaling(results: Results) -> list[Block]:
    """Speed-up against CPUs and the law behind it, or why there is none."""
    found = points([results])
    fitted = fit(found)
    picture = speedup(found, fitted)
    plotless = "" if picture else "No plot of speed-up: that takes topologies of different CPUs whose limit was found. "
    words = fitted.words if fitted else why_not(found) or "The Universal Scalability Law fits none of these points."
    return [*([picture] if picture else []), Text(plotless + words)]


def _unfinished(results: Results) -> list[str]:
    """What was interrupted or did not start; why others ended before the top stands in the table."""
    return [
        f"{run.topology.name} was not {'finished' if run.steps else 'measured'} ({len(run.steps)} steps): {one.why}."
        for run, one in zip(results.runs, held(results), strict=True)
        if one.limit == CUT or not run.done
    ]


def _bullets(items: list[str]) -> list[Block]:
    return [Bullets(items)] if items else []
