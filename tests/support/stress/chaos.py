"""Disturbances of a loaded stack in containers: scaling, a killed and a restarted container, and new limits.

`python -m tests.support.stress.chaos PORT REQUESTS` disturbs the stack of this checkout that `make up` started in
containers, with its Nginx on PORT, under 64 connections of constant load, and prints the answers by status and by
replica. At least two replicas run at all times. API_KEY and TLS_CERT are for a stack that requires them
(:func:`tests.support.stress.load.security_options`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from deploy.stack.paths import ROOT
from tests.support.stress.load import Counts, Load, security_options


class Chaos:
    """Disturbances that run one after another; each ends with its `make` or `docker` command."""

    def __init__(self, environ: Mapping[str, str], write_line: Callable[[str], None]) -> None:
        self._environ = environ
        self._write_line = write_line

    def run(self, load: Load, answers: int) -> None:
        """Run all disturbances, and wait for ``answers`` more answers after each."""
        for step in (self.grow, self.kill, self.restart_one, self.shrink, self.shrink_limits, self.restore_limits):
            answered_before = load.counts.answered
            step()
            answered = load.counts.answered - answered_before
            self._write_line(f"{step.__name__}: {answered} answered meanwhile, {load.counts.failed} failed so far")
            load.wait_for(answers)

    def grow(self) -> None:
        """Scale to five replicas."""
        self._make("scale", "N=5")

    def kill(self) -> None:
        """Kill one container with SIGKILL, and let `make scale` start it again."""
        self._docker("kill", "--signal", "KILL", self.replicas()[0])
        self._make("scale", "N=5")

    def restart_one(self) -> None:
        """Restart one container in place, and wait until it is healthy."""
        replica = self.replicas()[0]
        self._docker("restart", replica)
        while self._docker("inspect", "--format", "{{.State.Health.Status}}", replica) != "healthy":
            time.sleep(0.2)

    def shrink(self) -> None:
        """Scale to two replicas."""
        self._make("scale", "N=2")

    def shrink_limits(self) -> None:
        """Lower the limits of every replica."""
        self._make("resources", "CPUS=0.5", "MEMORY=512M")

    def restore_limits(self) -> None:
        """Give every replica its old limits."""
        self._make("resources", "CPUS=1", "MEMORY=1G")

    def replicas(self) -> list[str]:
        """Return the container ids of the running replicas."""
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
    """Return lines with the answers by status and by replica, and the first ten errors."""
    return [
        f"{counts.answered} answered, {counts.failed} failed",
        *(f"  status {status}: {count}" for status, count in sorted(counts.statuses.items())),
        *(f"  {replica}: {count}" for replica, count in sorted(counts.replicas.items())),
        *(f"  broken: {reason}" for reason in counts.broken[:10]),
    ]


def main() -> None:
    """Run as a command; the exit status is 1 if a request failed."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.support.stress.chaos PORT REQUESTS")
    port, requests = int(sys.argv[1]), int(sys.argv[2])
    chaos = Chaos(os.environ, print)
    if not chaos.replicas():
        sys.exit("error: this checkout runs no replica in containers; start some with: make up BACKEND=docker")
    with Load(port, max_requests=100 * requests, **security_options(os.environ)) as load:
        chaos.run(load, requests // 6)
        load.wait_for(max(0, requests - load.counts.answered), seconds=600)
    print("\n".join(report(load.counts)))
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
