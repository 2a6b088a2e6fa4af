"""What is measured: each engine with each number of workers from each number of connections, and for how long."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import CommandError
from deploy.stack.specification import whole

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
    def from_env(cls, environ: Mapping[str, str]) -> Plan:
        """Read QUICK, WORKERS, CONNECTIONS, BENCH_SECONDS and DATA; an empty value counts as unset.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        quick = whole(environ, "QUICK", 0, 0, 1) == 1
        return cls(
            quick=quick,
            workers=_numbers(environ, "WORKERS", (1,) if quick else (1, 2, 4), 64),
            connections=_numbers(environ, "CONNECTIONS", (1, FLOOR_CONNECTIONS, 512), 10_000),
            seconds=whole(environ, "BENCH_SECONDS", 5 if quick else 6, 1, 3600) or 0,
            warm_up=0.5 if quick else 1.0,
            data=Path(environ["DATA"]).expanduser() if environ.get("DATA") else None,
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


def _numbers(environ: Mapping[str, str], name: str, default: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Whole numbers between spaces, each once, in the order given."""
    value = environ.get(name)
    if not value:
        return default
    words = value.split()
    if not words or not all(_is_number(word) and 1 <= int(word) <= most for word in words):
        raise CommandError(f"{name}={value!r}: expected whole numbers from 1 to {most} with spaces between them")
    return tuple(dict.fromkeys(int(word) for word in words))


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10
