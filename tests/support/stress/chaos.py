"""What may happen to a stack in containers while it is loaded, with at least two replicas up at every moment.

`python -m tests.support.stress.chaos PORT REQUESTS` does it to the stack of this checkout that `make up` started in
containers, with its Nginx on PORT, under 64 connections of constant load, and prints the answers by status and by
replica. API_KEY and TLS_CERT are for a stack with such locks (:func:`tests.support.stress.load.locks`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from deploy.stack.paths import ROOT
from tests.support.stress.load import Counts, Load, locks


class Chaos:
    """The things that happen, one after another; each is done when its `make` or `docker` command is."""

    def __init__(self, environ: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self._environ = environ
        self._tell = tell

    def run(self, load: Load, between: int) -> None:
        """All of it, with ``between`` more answers after each."""
        for step in (self.grow, self.kill, self.restart_one, self.shrink, self.shrink_limits, self.restore_limits):
            before = load.counts.answered
            step()
            answered = load.counts.answered - before
            self._tell(f"{step.__name__}: {answered} answered meanwhile, {load.counts.failed} failed so far")
            load.wait_for(between)

    def grow(self) -> None:
        """From what there is to five replicas."""
        self._make("scale", "N=5")

    def kill(self) -> None:
        """One container dies without a word, and `make up` brings it back."""
        self._docker("kill", "--signal", "KILL", self.replicas()[0])
        self._make("scale", "N=5")

    def restart_one(self) -> None:
        """One container is started anew in place, and ready again before anything else happens."""
        replica = self.replicas()[0]
        self._docker("restart", replica)
        while self._docker("inspect", "--format", "{{.State.Health.Status}}", replica) != "healthy":
            time.sleep(0.2)

    def shrink(self) -> None:
        """Down to two replicas."""
        self._make("scale", "N=2")

    def shrink_limits(self) -> None:
        """Every replica gets other limits."""
        self._make("resources", "CPUS=0.5", "MEMORY=512M")

    def restore_limits(self) -> None:
        """And the old ones again."""
        self._make("resources", "CPUS=1", "MEMORY=1G")

    def replicas(self) -> list[str]:
        """Container ids of the replicas that run."""
        return self._docker("compose", "ps", "--quiet", "server").split()

    def _make(self, *arguments: str) -> None:
        self._run("make", "-s", *arguments)

    def _docker(self, *arguments: str) -> str:
        return self._run("docker", *arguments).strip()

    def _run(self, *command: str) -> str:
        environ = dict(self._environ)
        ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=600)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def report(counts: Counts) -> list[str]:
    """The answers by status and by replica, and what broke."""
    return [
        f"{counts.answered} answered, {counts.failed} failed",
        *(f"  status {status}: {count}" for status, count in sorted(counts.statuses.items())),
        *(f"  {replica}: {count}" for replica, count in sorted(counts.replicas.items())),
        *(f"  broken: {reason}" for reason in counts.broken[:10]),
    ]


def main() -> None:
    """From the command line; the status is 1 if a request failed."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.support.stress.chaos PORT REQUESTS")
    port, requests = int(sys.argv[1]), int(sys.argv[2])
    chaos = Chaos(os.environ, print)
    if not chaos.replicas():
        sys.exit("error: this checkout runs no replica in containers: make up BACKEND=docker")
    with Load(port, most=100 * requests, **locks(os.environ)) as load:
        chaos.run(load, requests // 6)
        load.wait_for(max(0, requests - load.counts.answered), seconds=600)
    print("\n".join(report(load.counts)))
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
