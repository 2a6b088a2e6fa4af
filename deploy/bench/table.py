"""Rows of the table: what one run of the clients against one replica gave; and the table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from deploy.bench.processes import Memory
from deploy.bench.wrk import Answers

_HEAD = (
    "engine", "workers", "request", "connections", "answers/s", "P50 ms", "P99 ms", "server CPU us", "x /health",
    "Nginx CPU us", "balance", "PSS MB", "errors",
)  # fmt: skip
_WORDS = {"engine", "request"}  # to the left; numbers to the right


@dataclass(frozen=True, slots=True)
class Row:
    """CPU in seconds of the whole run; ``floor`` is the server's CPU for one answer of /health, in microseconds."""

    engine: str
    workers: int
    request: str
    connections: int
    answers: Answers
    server_cpu: float
    nginx_cpu: float
    memory: list[Memory]
    floor: float | None = None
    answered: Mapping[str, int] | None = None
    balance: float | None = None

    @property
    def server_us(self) -> float:
        """The server's CPU for one answer."""
        return 1e6 * self.server_cpu / self.answers.count

    @property
    def nginx_us(self) -> float:
        """Nginx's."""
        return 1e6 * self.nginx_cpu / self.answers.count

    @property
    def ratio(self) -> float | None:
        """The server's CPU for one answer against that of /health; None where that was too little to be seen."""
        floor = self.server_us if self.floor is None else self.floor
        return self.server_us / floor if floor else None

    @property
    def pss(self) -> int:
        """The memory of the replica, in bytes, each page counted once."""
        return sum(one.pss for one in self.memory)

    @property
    def errors(self) -> int:
        """Of every kind."""
        return sum(self.answers.errors.values())

    def to_json(self) -> dict[str, object]:
        """As plain values, each name with its unit."""
        return {
            "engine": self.engine,
            "workers": self.workers,
            "request": self.request,
            "connections": self.connections,
            "answers": self.answers.count,
            "answers_per_second": self.answers.rate,
            "p50_ms": self.answers.p50,
            "p99_ms": self.answers.p99,
            "server_cpu_seconds": self.server_cpu,
            "nginx_cpu_seconds": self.nginx_cpu,
            "server_cpu_us_per_answer": self.server_us,
            "nginx_cpu_us_per_answer": self.nginx_us,
            "server_cpu_against_health": self.ratio,
            "answered_by_worker": self.answered,
            "balance": self.balance,
            "pss_bytes": self.pss,
            "processes": [asdict(one) for one in self.memory],
            "errors": dict(self.answers.errors),
        }


def table(rows: Sequence[Row]) -> str:
    """All of them, in their order."""
    return markdown(_HEAD, [_cells(row) for row in rows])


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the columns called ``engine`` and ``request`` hold words, the others numbers."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = [
        "-" * width if name in _WORDS else "-" * (width - 1) + ":" for name, width in zip(head, widths, strict=True)
    ]
    lines = [_padded(head, line, widths) for line in [head, *body]]
    lines.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    answers = row.answers
    return (
        row.engine, str(row.workers), row.request, str(row.connections), f"{answers.rate:.0f}", f"{answers.p50:.2f}",
        f"{answers.p99:.2f}", f"{row.server_us:.0f}", _ratio(row.ratio), f"{row.nginx_us:.0f}", _ratio(row.balance),
        f"{row.pss / 1e6:.1f}", str(row.errors),
    )  # fmt: skip


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _padded(head: Sequence[str], line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if name in _WORDS else cell.rjust(width)
        for name, cell, width in zip(head, line, widths, strict=True)
    ]
