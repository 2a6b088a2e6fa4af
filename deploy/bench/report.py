"""What was measured, on what: printed as a table, and kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from deploy.bench.plan import Plan
from deploy.bench.row import Row
from deploy.bench.subject import Subject
from deploy.bench.table import table
from deploy.stack.machine import Machine


@dataclass(frozen=True, slots=True)
class Report:
    """Rows, as they come."""

    subject: Subject
    machine: Machine
    plan: Plan
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    rows: list[Row] = field(default_factory=list)

    def render(self) -> str:
        """For people: one line on what it is, and the table."""
        return f"{self.subject.words}; {self.machine.words}; {self.plan.seconds} s a row\n\n{table(self.rows)}\n"

    def save(self, results: Path, ended: str | None) -> Path:
        """For programs: ``<time>-bench/bench.json`` under ``results``; ``ended`` says why there are no more rows."""
        folder = results / f"{self.started:%Y%m%d-%H%M%S}-bench"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "bench.json"
        path.write_text(json.dumps(self._document(ended), indent=1) + "\n")
        return path

    def _document(self, ended: str | None) -> dict[str, object]:
        copy, mlmodel = self.subject.copy, self.subject.mlmodel
        return {
            "started": self.started.isoformat(timespec="seconds"),
            "complete": ended is None,
            "ended": ended,
            "model": {
                "name": copy.name,
                "version": copy.version,
                "uri": copy.uri,
                "digest": copy.digest,
                "trained_on": mlmodel.trained_on,
                "nodes": self.subject.nodes,
            },
            "machine": asdict(self.machine),
            "plan": {**asdict(self.plan), "data": str(self.plan.data) if self.plan.data else None},
            "rows": [row.to_json() for row in self.rows],
        }
