"""One row of the table: what one run of the clients against one replica gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from deploy.bench.processes import Memory
from deploy.bench.wrk import Answers


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
