"""A line on standard error for each row, with how long the rest may take."""

from __future__ import annotations

import sys
import time

from deploy.bench.plan import Plan
from deploy.bench.row import Row

_START = 5.0  # seconds that a replica takes besides its rows, before any has been seen


class Progress:
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
        beside = (elapsed - self._done * self._plan.seconds) / begun if begun else _START
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
