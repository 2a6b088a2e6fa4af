"""The report of a benchmark: a line on standard error per row, then a table, and a JSON file of all figures."""

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

# The first estimate of the time that a replica needs in addition to its rows.
_REPLICA_START_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """The rows measured so far, with the model, the machine and the plan."""

    subject: Subject
    machine: Machine
    plan: Plan
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    rows: list[Row] = field(default_factory=list)

    def render(self) -> str:
        """Return a line about model and machine, and the table, for people to read."""
        heading = f"{self.subject.description}; {self.machine.description}; {self.plan.seconds} s per row"
        return f"{heading}\n\n{table(self.rows)}\n"

    def save(self, results: Path, error: str | None) -> Path:
        """Write ``<time>-bench/bench.json`` in ``results``; ``error`` says why rows are missing, if any are."""
        folder = results / f"{self.started:%Y%m%d-%H%M%S}-bench"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "bench.json"
        path.write_text(json.dumps(self._document(error), indent=1) + "\n")
        return path

    def _document(self, error: str | None) -> dict[str, object]:
        copy, mlmodel = self.subject.copy, self.subject.mlmodel
        return {
            "started": self.started.isoformat(timespec="seconds"),
            "complete": error is None,
            "ended": error,
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
    """A counter of measured rows that prints a line for each, with the estimated time left."""

    def __init__(self, replicas: int, plan: Plan) -> None:
        self._replicas = replicas
        self._plan = plan
        self._done = 0
        self._started = time.monotonic()
        _log(f"{self._rows} rows of {plan.seconds} s: about {format_duration(self._estimate_left(0))}")

    def add(self, row: Row) -> None:
        """Print a line for a measured row."""
        self._done += 1
        left = self._estimate_left(time.monotonic() - self._started)
        left_text = f"; about {format_duration(left)} left" if self._done < self._rows else ""
        _log(f"[{self._done}/{self._rows}] {_describe(row)}{left_text}")

    @property
    def _rows(self) -> int:
        return self._replicas * self._plan.rows_per_replica

    def _estimate_left(self, elapsed: float) -> float:
        """Estimate the seconds left: the rows' own time, and the mean of the other time of the replicas so far."""
        started = -(-self._done // self._plan.rows_per_replica)
        overhead = (elapsed - self._done * self._plan.seconds) / started if started else _REPLICA_START_SECONDS
        return (self._rows - self._done) * self._plan.seconds + (self._replicas - started) * overhead


def _describe(row: Row) -> str:
    replica = f"{row.engine}, {row.workers} worker{'s' if row.workers > 1 else ''}"
    load = f"{row.request} from {row.connections} connection{'s' if row.connections > 1 else ''}"
    return f"{replica}, {load}: {row.answers.rate:.0f} answers/s, P99 {row.answers.p99:.2f} ms"


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, or from 90 s on in minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
