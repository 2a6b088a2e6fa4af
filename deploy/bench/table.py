"""The table of a benchmark in Markdown, whose rows have the figures of one run of the clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from deploy.bench.processes import Memory
from deploy.bench.wrk import Answers

_HEADER = (
    "engine", "workers", "request", "connections", "answers/s", "P50 ms", "P99 ms", "server CPU us", "x /health",
    "Nginx CPU us", "balance", "PSS MB", "errors",
)  # fmt: skip
_TEXT_COLUMNS = {"engine", "request"}  # aligned to the left; other columns have numbers


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one run of the clients against one replica.

    ``server_cpu`` and ``nginx_cpu`` are CPU seconds of the run, ``floor`` is the server's CPU time of an answer of
    GET /health in microseconds, and ``answered`` has the number of answers of each worker.
    """

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
        """The server's CPU time per answer, in microseconds."""
        return 1e6 * self.server_cpu / self.answers.count

    @property
    def nginx_us(self) -> float:
        """Nginx's CPU time per answer, in microseconds."""
        return 1e6 * self.nginx_cpu / self.answers.count

    @property
    def ratio(self) -> float | None:
        """The server's CPU time per answer relative to the floor; None if the floor's was too short to be measured."""
        floor = self.server_us if self.floor is None else self.floor
        return self.server_us / floor if floor else None

    @property
    def pss(self) -> int:
        """The memory of the replica in bytes, with each shared page counted once."""
        return sum(process.pss for process in self.memory)

    @property
    def errors(self) -> int:
        """The number of errors of all types."""
        return sum(self.answers.errors.values())

    def to_json(self) -> dict[str, object]:
        """Return all figures as JSON values, with units in their names."""
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
            "processes": [asdict(process) for process in self.memory],
            "errors": dict(self.answers.errors),
        }


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    return markdown(_HEADER, [_cells(row) for row in rows])


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, with the columns ``engine`` and ``request`` aligned to the left."""
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    rule = [
        "-" * width if name in _TEXT_COLUMNS else "-" * (width - 1) + ":"
        for name, width in zip(header, widths, strict=True)
    ]
    lines = [_pad(header, line, widths) for line in [header, *body]]
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


def _pad(header: Sequence[str], line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if name in _TEXT_COLUMNS else cell.rjust(width)
        for name, cell, width in zip(header, line, widths, strict=True)
    ]
