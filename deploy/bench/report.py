"""The report: a line on standard error for each row as it comes, then a table, and a JSON file that is kept."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from deploy.bench.plan import Plan
from deploy.bench.subject import Subject
from deploy.bench.table import Row, table
from deploy.stack.machine import Machine

# What a replica takes besides its rows, before any has been seen.
_REPLICA_START_SECONDS = 5.0


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
        heading = f"{self.subject.description}; {self.machine.description}; {self.plan.seconds} s a row"
        return f"{heading}\n\n{table(self.rows)}\n"

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


class RowProgress:
    """Counts rows."""

    def __init__(self, replicas: int, plan: Plan) -> None:
        self._replicas = replicas
        self._plan = plan
        self._done = 0
        self._started = time.monotonic()
        _say(f"{self._rows} rows of {plan.seconds} s: about {duration(self._left(0))}")

    def tell(self, row: Row) -> None:
        """One row more is measured."""
        self._done += 1
        left = self._left(time.monotonic() - self._started)
        rest = f"; about {duration(left)} left" if self._done < self._rows else ""
        _say(f"[{self._done}/{self._rows}] {_words(row)}{rest}")

    @property
    def _rows(self) -> int:
        return self._replicas * self._plan.rows_a_replica

    def _left(self, elapsed: float) -> float:
        """Rows take the time that they are given; what the replicas took besides so far, the others will too."""
        begun = -(-self._done // self._plan.rows_a_replica)
        beside = (elapsed - self._done * self._plan.seconds) / begun if begun else _REPLICA_START_SECONDS
        return (self._rows - self._done) * self._plan.seconds + (self._replicas - begun) * beside


def _words(row: Row) -> str:
    who = f"{row.engine}, {row.workers} worker{'s' if row.workers > 1 else ''}"
    where = f"{row.request} from {row.connections} connection{'s' if row.connections > 1 else ''}"
    return f"{who}, {where}: {row.answers.rate:.0f} answers/s, P99 {row.answers.p99:.2f} ms"


def duration(seconds: float) -> str:
    """In seconds up to a minute and a half, then in minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
