"""What is measured: each engine with each number of workers from each number of connections, and for how long."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import CommandError
from deploy.options import BenchOptions

# From how many connections the floor is measured, bare HTTP without a prediction.
FLOOR_CONNECTIONS = 64
# A connection is at most four files of one program, Nginx; and what all have open besides.
_FILES_EACH, _FILES_BESIDE = 4, 256


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of workers and of connections, and how long each row and each replica's warm-up take (seconds).

    ``data`` is a CSV with the rows to ask for; without one, they are made up.
    """

    quick: bool
    workers: tuple[int, ...]
    connections: tuple[int, ...]
    seconds: int
    warm_up: float
    data: Path | None = None

    @classmethod
    def of(cls, options: BenchOptions) -> Plan:
        """Return the plan that the options ask for, a shorter one if it is to be quick."""
        return cls(
            quick=options.quick,
            workers=options.workers or ((1,) if options.quick else (1, 2, 4)),
            connections=options.connections or (1, FLOOR_CONNECTIONS, 512),
            seconds=options.seconds or (5 if options.quick else 6),
            warm_up=0.5 if options.quick else 1.0,
            data=options.data,
        )

    @property
    def rows_a_replica(self) -> int:
        """The floor, and one for each number of connections."""
        return 1 + len(self.connections)

    def allow_files(self) -> None:
        """Let this process, and so those that it starts, open a file for every connection.

        Raises:
            CommandError: the machine does not let it.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(*self.connections, FLOOR_CONNECTIONS)
        needed = _FILES_EACH * most + _FILES_BESIDE
        if soft == resource.RLIM_INFINITY or soft >= needed:
            return
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise CommandError(
                f"{most} connections take {needed} open files, and this machine allows {hard}; see ulimit -Hn"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
