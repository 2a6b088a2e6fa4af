"""The plan of a benchmark: numbers of workers and connections, and how long each combination is measured."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import CommandError
from deploy.options import BenchOptions

# The number of connections for the floor: GET /health, an answer without a prediction.
FLOOR_CONNECTIONS = 64
# Nginx needs at most four open files per connection, and each program some more.
_FILES_PER_CONNECTION, _OTHER_FILES = 4, 256


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of workers and connections to measure, the seconds per row, and those of each replica's warm-up.

    ``data`` is a CSV file of rows to send, or None for random rows.
    """

    quick: bool
    workers: tuple[int, ...]
    connections: tuple[int, ...]
    seconds: int
    warm_up: float
    data: Path | None = None

    @classmethod
    def of(cls, options: BenchOptions) -> Plan:
        """Return the plan that the options describe, a short one with ``quick``."""
        return cls(
            quick=options.quick,
            workers=options.workers or ((1,) if options.quick else (1, 2, 4)),
            connections=options.connections or (1, FLOOR_CONNECTIONS, 512),
            seconds=options.seconds or (5 if options.quick else 6),
            warm_up=0.5 if options.quick else 1.0,
            data=options.data,
        )

    @property
    def rows_per_replica(self) -> int:
        """The number of rows that each replica is measured for: the floor, and one per number of connections."""
        return 1 + len(self.connections)

    def raise_open_files_limit(self) -> None:
        """Raise the limit of open files as far as the connections need, for this process and its children.

        Raises:
            CommandError: the hard limit is too low.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        connections = max(*self.connections, FLOOR_CONNECTIONS)
        needed = _FILES_PER_CONNECTION * connections + _OTHER_FILES
        if soft == resource.RLIM_INFINITY or soft >= needed:
            return
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise CommandError(
                f"{connections} connections need {needed} open files, and the hard limit is {hard}: raise it "
                "(ulimit -Hn), or choose fewer with CONNECTIONS="
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
