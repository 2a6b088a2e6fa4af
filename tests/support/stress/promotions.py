"""Promotions and rollbacks of the stack that is up, under 64 connections of constant load.

`python -m tests.support.stress.promotions PORT VERSION [ROUNDS]` promotes VERSION and rolls back, ROUNDS times (3), and
prints what the replicas hold before and after, and the answers by version. The status is 1 if a request failed.
API_KEY and TLS_CERT are for a stack with such locks (:func:`tests.support.stress.load.locks`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from deploy.stack.paths import ROOT
from tests.support.stress.load import Load, locks


def make(*arguments: str) -> str:
    """Run `make`, which must succeed; what it printed."""
    ran = subprocess.run(["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    return ran.stdout


def tell_memory() -> None:
    """The lines of `make stats` that are replicas'."""
    lines = make("stats").splitlines()
    print("\n".join([lines[0], *(line for line in lines if "-server-" in line or line.startswith("replica-"))]))


def main() -> None:
    """From the command line."""
    if not 3 <= len(sys.argv) <= 4:
        sys.exit("usage: python -m tests.support.stress.promotions PORT VERSION [ROUNDS]")
    port, version, rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3
    with Load(port, most=100_000_000, **locks(os.environ)) as load:
        load.wait_for(5000)
        tell_memory()
        for _ in range(rounds):
            for verb in (["promote", f"VERSION={version}"], ["rollback"]):
                started = time.monotonic()
                print(make(*verb).partition(",")[0], f"after {time.monotonic() - started:.0f} s", flush=True)
                load.wait_for(1000)
        load.wait_for(5000)
        tell_memory()
    print(f"{load.counts.answered} answered, {load.counts.failed} failed")
    for name, count in sorted(load.counts.versions.items()):
        print(f"  by version {name}: {count}")
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
