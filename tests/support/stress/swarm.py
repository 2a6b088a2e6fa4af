"""A stack in a Docker Swarm, by Docker's own commands, and what may happen to it while it is loaded.

`python -m tests.support.stress.swarm PORT REQUESTS MODEL_URI` does all of it to the stack `forkcast-swarm` with its
Nginx on PORT, under 64 connections of constant load: 3 replicas become 5 and 3 again, all move to MODEL_URI and back,
one is killed. It prints the answers of each phase by version; the status is 1 if a request failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.stack.paths import ROOT
from tests.support.stress.load import Counts, Load
from tests.support.waiting import wait_until

FOLDER = ROOT / "deploy/swarm"


@dataclass
class SwarmStack:
    """The stack of one name; ``environ`` has what its files ask for. Each call is done when the swarm has converged."""

    name: str = "forkcast-swarm"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def deploy(self, *files: str) -> None:
        """`docker stack deploy` of files of deploy/swarm; images are this machine's, no registry has them."""
        paths = [word for file in files for word in ("-c", str(FOLDER / file))]
        self.docker("stack", "deploy", "--detach=false", "--quiet", "--resolve-image", "never", *paths, self.name)

    def scale(self, replicas: int) -> None:
        self.docker("service", "scale", f"{self.name}_server={replicas}")

    def update(self, *change: str, service: str = "server") -> None:
        """`docker service update`, as it is written on its command line."""
        self.docker("service", "update", "--quiet", "--detach=false", *change, f"{self.name}_{service}")

    def rollback(self) -> None:
        self.docker("service", "rollback", "--quiet", "--detach=false", f"{self.name}_server")

    def kill_one(self) -> None:
        """One replica dies without a word, and the swarm starts another in its place."""
        before = self.replicas()
        self.docker("kill", "--signal", "KILL", before[0])
        self.wait_for_replicas(len(before), without=before[0])

    def replicas(self) -> list[str]:
        """Container ids of the replicas of this node that are healthy."""
        service = f"label=com.docker.swarm.service.name={self.name}_server"
        return self.docker("ps", "--quiet", "--filter", service, "--filter", "health=healthy").split()

    def wait_for_replicas(self, count: int, without: str = "", seconds: float = 180) -> None:
        wait_until(
            lambda: len(found := self.replicas()) == count and without not in found,
            seconds,
            pause=0.3,
            describe=lambda: self.docker("stack", "ps", "--no-trunc", self.name),
        )

    def docker(self, *arguments: str) -> str:
        """Run `docker`, which must succeed; what it printed."""
        ran = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=dict(self.environ), capture_output=True, text=True, check=False,
            timeout=900,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout.strip()


class Phases:
    """What was answered while something happened, phase by phase."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._started = time.monotonic()
        self._seen = (0, 0, Counter[str]())

    def end(self, name: str) -> str:
        """A line on the phase that ends here."""
        answered, failed, versions = self._counts.answered, self._counts.failed, Counter(self._counts.versions)
        seen_answered, seen_failed, seen_versions = self._seen
        took, self._started = time.monotonic() - self._started, time.monotonic()
        self._seen = (answered, failed, versions)
        told = f"{name}: {answered - seen_answered} answered, {failed - seen_failed} failed, {took:.0f} s"
        return told + "".join(f", version {key}: {count}" for key, count in sorted((versions - seen_versions).items()))


def run(stack: SwarmStack, load: Load, requests: int, model_uri: str) -> None:
    """All phases, each with a ninth of the requests after it, or more."""
    phases = Phases(load.counts)
    steps = {
        "as it was": lambda: None,
        "3 -> 5": lambda: stack.scale(5),
        "5 -> 3": lambda: stack.scale(3),
        "rolling update": lambda: stack.update("--env-add", f"MODEL_URI={model_uri}"),
        "rollback": stack.rollback,
        "killed": stack.kill_one,
    }
    for name, step in steps.items():
        step()
        print(phases.end(name), flush=True)
        load.wait_for(requests // 9, seconds=600)
        print(phases.end(f"  after {name}"), flush=True)


def main() -> None:
    """From the command line."""
    if len(sys.argv) != 4:
        sys.exit("usage: python -m tests.support.stress.swarm PORT REQUESTS MODEL_URI")
    port, requests = int(sys.argv[1]), int(sys.argv[2])
    stack = SwarmStack()
    with Load(port, most=100 * requests) as load:
        run(stack, load, requests, sys.argv[3])
        load.wait_for(max(0, requests - load.counts.answered), seconds=600)
    print(f"{load.counts.answered} answered, {load.counts.failed} failed, {dict(load.counts.statuses)}")
    for line in load.counts.broken[:10]:
        print(f"  broken: {line}")
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
