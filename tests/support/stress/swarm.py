"""A stack in a Docker Swarm, controlled by Docker's commands, and disturbances while it is loaded.

`python -m tests.support.stress.swarm PORT REQUESTS MODEL_URI` disturbs the stack `forkcast-swarm`, whose Nginx is on
PORT, under 64 connections of constant load: it scales from 3 replicas to 5 and back, updates all to MODEL_URI and rolls
back, and kills one replica. It prints the answers of each phase by version; the exit status is 1 if a request failed.
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
    """A stack whose files get the variables in ``environ``. Each call returns when the swarm has converged."""

    name: str = "forkcast-swarm"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def deploy(self, *files: str) -> None:
        """Run `docker stack deploy` with files of deploy/swarm and local images, which no registry has."""
        options = [argument for file in files for argument in ("-c", str(FOLDER / file))]
        self.docker("stack", "deploy", "--detach=false", "--quiet", "--resolve-image", "never", *options, self.name)

    def scale(self, replicas: int) -> None:
        self.docker("service", "scale", f"{self.name}_server={replicas}")

    def update(self, *options: str, service: str = "server") -> None:
        """Run `docker service update` with these options."""
        self.docker("service", "update", "--quiet", "--detach=false", *options, f"{self.name}_{service}")

    def rollback(self) -> None:
        self.docker("service", "rollback", "--quiet", "--detach=false", f"{self.name}_server")

    def kill_one(self) -> None:
        """Kill one replica with SIGKILL, and wait until the swarm has replaced it."""
        replicas = self.replicas()
        self.docker("kill", "--signal", "KILL", replicas[0])
        self.wait_for_replicas(len(replicas), without=replicas[0])

    def replicas(self) -> list[str]:
        """Return the container ids of the healthy replicas on this node."""
        service = f"label=com.docker.swarm.service.name={self.name}_server"
        return self.docker("ps", "--quiet", "--filter", service, "--filter", "health=healthy").split()

    def wait_for_replicas(self, count: int, without: str = "", seconds: float = 180) -> None:
        wait_until(
            lambda: len(replicas := self.replicas()) == count and without not in replicas,
            seconds,
            pause=0.3,
            describe=lambda: self.docker("stack", "ps", "--no-trunc", self.name),
        )

    def docker(self, *arguments: str) -> str:
        """Run `docker`, which must succeed, and return its output."""
        ran = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=dict(self.environ), capture_output=True, text=True, check=False,
            timeout=900,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout.strip()


class Phases:
    """The number of answers in each phase of a load."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._started = time.monotonic()
        self._seen = (0, 0, Counter[str]())

    def finish(self, name: str) -> str:
        """Return a line with the answers since the previous call."""
        answered, failed, versions = self._counts.answered, self._counts.failed, Counter(self._counts.versions)
        seen_answered, seen_failed, seen_versions = self._seen
        seconds, self._started = time.monotonic() - self._started, time.monotonic()
        self._seen = (answered, failed, versions)
        line = f"{name}: {answered - seen_answered} answered, {failed - seen_failed} failed, {seconds:.0f} s"
        return line + "".join(f", version {key}: {count}" for key, count in sorted((versions - seen_versions).items()))


def run(stack: SwarmStack, load: Load, requests: int, model_uri: str) -> None:
    """Run all phases, and wait for a ninth of the requests after each."""
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
        print(phases.finish(name), flush=True)
        load.wait_for(requests // 9, seconds=600)
        print(phases.finish(f"  after {name}"), flush=True)


def main() -> None:
    """Run as a command; the exit status is 1 if a request failed."""
    if len(sys.argv) != 4:
        sys.exit("usage: python -m tests.support.stress.swarm PORT REQUESTS MODEL_URI")
    port, requests = int(sys.argv[1]), int(sys.argv[2])
    stack = SwarmStack()
    with Load(port, max_requests=100 * requests) as load:
        run(stack, load, requests, sys.argv[3])
        load.wait_for(max(0, requests - load.counts.answered), seconds=600)
    print(f"{load.counts.answered} answered, {load.counts.failed} failed, {dict(load.counts.statuses)}")
    for line in load.counts.broken[:10]:
        print(f"  broken: {line}")
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
