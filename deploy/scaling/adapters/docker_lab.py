"""What the scaling lab needs of the container backend: a generator beside the replicas, Nginx's log, the statistics."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deploy.backends.base import Backend
from deploy.backends.docker import security_variables
from deploy.backends.docker.engine import Compose, docker, docker_command, engine_cpus
from deploy.backends.docker.topology import mountable_file, variables
from deploy.backends.local.file_limits import OPEN_FILES
from deploy.errors import CommandError
from deploy.options import Options
from deploy.scaling.adapters.docker_statistics import Statistics, engine_socket
from deploy.scaling.generator import Generator, Load
from deploy.scaling.ladder import Ladder
from deploy.scaling.placement import Placement
from deploy.scaling.usage import Reading
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from server.system.platform import is_linux, usable_cpus

_LOCUST = ("python", "-m", "locust")
# Where the generator finds what it is given.
_FOLDER, _DATA = "/results", "/data/rows"
_MEMORY = "2G"


class DockerAdapter:
    """A stack in containers as the lab uses it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def cpus(self) -> list[int]:
        """Return the numbers of the CPUs that the engine may use: those of its virtual machine, where it has one."""
        return usable_cpus()[: engine_cpus()] if is_linux() else list(range(engine_cpus()))

    def open_files(self) -> int:
        """Return how many files a process of Nginx may open: docker-compose.yml says so."""
        return OPEN_FILES

    def lab(self, layout: Layout, stack: Stack, options: Options) -> DockerLab:
        """Return what measures this stack."""
        return DockerLab(layout, stack, options)


class DockerLab:
    """The lab on one Compose project."""

    def __init__(self, layout: Layout, stack: Stack, options: Options) -> None:
        chosen = variables(stack) | security_variables.variables(stack, layout, options)
        self._host = f"{'https' if stack.has_tls else 'http'}://nginx:8082"
        if options.project:
            chosen["COMPOSE_PROJECT_NAME"] = options.project
        self._variables = chosen
        self._compose = Compose(chosen)
        self._options = options
        self._project = str(self._compose.config()["name"])
        self._generator = f"{self._project}-lab-{os.getpid()}"

    def log_command(self) -> list[str]:
        """What prints Nginx's log from now on."""
        containers = self._compose.containers("nginx")
        if not containers:
            raise CommandError("nginx is not there: make up brings it back")
        return docker_command("logs", "--follow", "--tail", "0", containers[0].id)

    def generator(self, load: Load, ladder: Ladder, folder: Path, placement: Placement) -> Generator:
        """Locust in a container of its own in the stack's network, where no port of the host's is between."""
        data = mountable_file("DATA", self._options.data)
        mounts = [f"{folder}:{_FOLDER}", *([f"{data}:{_DATA}{''.join(data.suffixes)}:ro"] if data else [])]
        options = ["--rm", "-T", "--no-deps", "--name", self._generator, "--user", f"{os.getuid()}:{os.getgid()}"]
        for mount in mounts:
            options += ["--volume", mount]
        inside = f"{_DATA}{''.join(data.suffixes)}" if data else ""
        arguments = load.arguments(ladder, self._host, "locust/locustfile.py", _FOLDER, inside)
        compose = Compose(self._variables | self._limits(placement))
        command = compose.command("run", *options, "locust-worker", *_LOCUST, *arguments)
        return Generator(command, folder / "locust.log", self._stop, compose.environ)

    def _limits(self, placement: Placement) -> dict[str, str]:
        """What the generator may use, unless the user said so: a machine has frozen under one without limits."""
        cpus, memory = self._options.locust_cpus, self._options.locust_memory
        return {
            "LOCUST_CPUS": cpus.text if cpus else str(placement.generator_cpus),
            "LOCUST_MEMORY": memory.text if memory else _MEMORY,
            "GENERATOR_CPUSET": placement.generator,
        }

    def reader(self, _generator: Generator) -> Callable[[], list[Reading]]:
        """The engine's own statistics."""
        return Statistics(engine_socket(), self._project, [self._generator]).read

    def _stop(self, _process: subprocess.Popen[bytes]) -> None:
        # Through the engine: what a signal to `docker compose run` does differs from version to version.
        with suppress(CommandError):  # it has ended by itself
            docker("stop", "--time", "20", self._generator)

    def clear(self) -> None:
        """Remove generators that were left behind, by a command that was killed too: no other measures meanwhile."""
        left = docker("ps", "--all", "--quiet", "--filter", f"name=^/{self._project}-lab-[0-9]+$").split()
        if left:
            docker("rm", "--force", *left)
