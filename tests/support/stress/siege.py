"""What those who ask for predictions notice of attacks.

`python -m tests.support.stress.siege PORT [SOCKET]` has 16 connections ask the stack on PORT, does each attack to the
same port, or to the Unix socket of a replica, and prints a table. The attackers are another process; the stack is one
that `make up` started. `ATTACKS="slow header,silent"` chooses, `CLIENTS=1000` and `ATTACK_SECONDS=20` say how much.
API_KEY and TLS_CERT are for the 16 (:func:`tests.support.stress.load.locks`); attackers have no key and speak no TLS.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.support.stress.hostile import ATTACKS, run
from tests.support.stress.hostile.wire import Got
from tests.support.stress.load import Load, locks

CONNECTIONS = 16
# So long is looked before each attack, and at least during it (seconds).
_LOOK = 8.0
# Others rest between two requests, so that what they measure is the service and not its full CPUs.
_REST = 0.02


@dataclass(frozen=True)
class Noticed:
    """Latencies of the others (ms) before and during an attack, their failures, and what the attackers got."""

    attack: str
    before: Sequence[float]
    during: Sequence[float]
    failed: int
    attackers: Got

    def row(self) -> str:
        """A line of the table."""
        most = "; ".join(f"{name} ({times})" for name, times in self.attackers.most_common())
        before, during = (f"{at(times, 0.5):.1f} / {at(times, 0.95):.1f}" for times in (self.before, self.during))
        return f"| {self.attack} | {before} | {during} | {len(self.during)} | {self.failed} | {most} |"


def at(times: Sequence[float], part: float) -> float:
    """A percentile."""
    return sorted(times)[int(part * (len(times) - 1))] if times else float("nan")


class Siege:
    """Others ask at ``port`` while attackers, from a process of their own, go for ``place``."""

    def __init__(self, port: int, place: str, count: int, seconds: float) -> None:
        self._port = port
        self._place = place
        self._count = count
        self._seconds = seconds

    def attack(self, name: str) -> Noticed:
        """One attack, and what was noticed of it."""
        attackers = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with attackers, Load(self._port, CONNECTIONS, rest=_REST, **locks(os.environ)) as load:
            attackers.submit(os.getpid).result()  # it is there, with all that it imports
            load.counts.milliseconds.clear()
            time.sleep(_LOOK)
            before = load.counts.milliseconds.copy()
            result = attackers.submit(run, name, self._place, self._count, self._seconds).result()
            load.wait_for(CONNECTIONS)
            during = load.counts.milliseconds[len(before) :]
        return Noticed(name, before, during, load.counts.failed, result)


def main() -> None:
    """From the command line; the status is 1 if a request of the others failed."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m tests.support.stress.siege PORT [SOCKET]")
    count, seconds = int(os.environ.get("CLIENTS", "1000")), float(os.environ.get("ATTACK_SECONDS", "20"))
    siege = Siege(int(sys.argv[1]), sys.argv[-1], count, seconds)
    print("| attack | P50 / P95 before, ms | during | answered | failed | what the attackers got |")
    print("|---|---|---|---:|---:|---|")
    failed = 0
    for name in filter(None, os.environ.get("ATTACKS", ",".join(ATTACKS)).split(",")):
        noticed = siege.attack(name)
        failed += noticed.failed
        print(noticed.row(), flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
