"""Promotions and rollbacks of the running stack, under 64 connections of constant load.

`python -m tests.support.stress.promotions PORT VERSION [ROUNDS]` promotes VERSION and rolls back, ROUNDS times (3), and
prints the memory of the replicas before and after, and the answers by version. The exit status is 1 if a request
failed. API_KEY and TLS_CERT are for a stack that requires them (:func:`tests.support.stress.load.security_options`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from deploy.stack.paths import ROOT
from tests.support.stress.load import Load, security_options


def make(*arguments: str) -> str:
    """Run `make` and return its output; exit with its error message if it fails."""
    ran = subprocess.run(["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    return ran.stdout


def print_memory() -> None:
    """Print the lines of `make stats` about replicas."""
    lines = make("stats").splitlines()
    print("\n".join([lines[0], *(line for line in lines if "-server-" in line or line.startswith("replica-"))]))


def main() -> None:
    """Run as a command."""
    if not 3 <= len(sys.argv) <= 4:
        sys.exit("usage: python -m tests.support.stress.promotions PORT VERSION [ROUNDS]")
    port, version, rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3
    with Load(port, max_requests=100_000_000, **security_options(os.environ)) as load:
        load.wait_for(5000)
        print_memory()
        for _ in range(rounds):
            for verb in (["promote", f"VERSION={version}"], ["rollback"]):
                started = time.monotonic()
                print(make(*verb).partition(",")[0], f"after {time.monotonic() - started:.0f} s", flush=True)
                load.wait_for(1000)
        load.wait_for(5000)
        print_memory()
    print(f"{load.counts.answered} answered, {load.counts.failed} failed")
    for name, count in sorted(load.counts.versions.items()):
        print(f"  by version {name}: {count}")
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
