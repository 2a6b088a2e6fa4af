"""Latencies and failures of regular clients while hostile clients attack.

`python -m tests.support.stress.siege PORT [SOCKET]` loads the stack on PORT, which `make up` started, with 16 regular
clients, runs each attack against the same port or the Unix socket of a replica, and prints a table. The attackers run
in another process. `ATTACKS="slow header,silent"` selects attacks, `CLIENTS=1000` and `ATTACK_SECONDS=20` set their
size. API_KEY and TLS_CERT are for the regular clients (:func:`tests.support.stress.load.security_options`); attackers
have no key and do not use TLS.
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
from tests.support.stress.hostile.wire import Outcomes
from tests.support.stress.load import Load, security_options

CONNECTIONS = 16
# How long latencies are measured before each attack.
_BASELINE_SECONDS = 8.0
# The regular clients pause between requests, so that they measure the service and not saturated CPUs.
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class AttackResult:
    """Latencies (ms) and failures of the regular clients before and during an attack, and the attackers' outcomes."""

    attack: str
    latencies_before: Sequence[float]
    latencies_during: Sequence[float]
    failed: int
    outcomes: Outcomes

    def row(self) -> str:
        """Return the result as a row of the table."""
        outcomes = "; ".join(f"{name} ({count})" for name, count in self.outcomes.most_common())
        cells = (
            f"{percentile(latencies, 0.5):.1f} / {percentile(latencies, 0.95):.1f}"
            for latencies in (self.latencies_before, self.latencies_during)
        )
        return f"| {self.attack} | {' | '.join(cells)} | {len(self.latencies_during)} | {self.failed} | {outcomes} |"


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the percentile at a fraction from 0 to 1, or NaN without values."""
    return sorted(values)[int(fraction * (len(values) - 1))] if values else float("nan")


class Siege:
    """Regular clients of ``port``, and attacks on ``address`` from another process."""

    def __init__(self, port: int, address: str, count: int, seconds: float) -> None:
        self._port = port
        self._address = address
        self._count = count
        self._seconds = seconds

    def attack(self, name: str) -> AttackResult:
        """Run an attack under load and return its result."""
        attackers = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with (
            attackers,
            Load(self._port, CONNECTIONS, pause_seconds=_PAUSE_SECONDS, **security_options(os.environ)) as load,
        ):
            attackers.submit(os.getpid).result()  # the process is ready, with all its imports
            load.counts.milliseconds.clear()
            time.sleep(_BASELINE_SECONDS)
            latencies_before = load.counts.milliseconds.copy()
            outcomes = attackers.submit(run, name, self._address, self._count, self._seconds).result()
            load.wait_for(CONNECTIONS)
            latencies_during = load.counts.milliseconds[len(latencies_before) :]
        return AttackResult(name, latencies_before, latencies_during, load.counts.failed, outcomes)


def main() -> None:
    """Run as a command; the exit status is 1 if a request of a regular client failed."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m tests.support.stress.siege PORT [SOCKET]")
    count, seconds = int(os.environ.get("CLIENTS", "1000")), float(os.environ.get("ATTACK_SECONDS", "20"))
    siege = Siege(int(sys.argv[1]), sys.argv[-1], count, seconds)
    print("| attack | P50 / P95 before, ms | during | answered | failed | what the attackers got |")
    print("|---|---|---|---:|---:|---|")
    failed = 0
    for name in filter(None, os.environ.get("ATTACKS", ",".join(ATTACKS)).split(",")):
        result = siege.attack(name)
        failed += result.failed
        print(result.row(), flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
