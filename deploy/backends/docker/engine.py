"""Docker's own commands, as few of them as the verbs need. The only module here that runs `docker`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from deploy.errors import CommandError
from deploy.options import COMPOSE_VARIABLES
from deploy.stack import registry_services
from server.errors import last_line
from server.settings import ROOT

SERVICES = ("server", "nginx", "locust", "locust-worker")
MONITORING = ("prometheus", "nginx-exporter", "grafana")
_KNOWN = (*SERVICES, *registry_services.SERVICES, *MONITORING)
# The label by which a replica's configuration is known again; Compose's own hash depends on how it is called.
CONFIG_LABEL = "forkcast.config"
# The label of an image by which the code in it is known again.
CODE_LABEL = "forkcast.code"

_LABEL = "com.docker.compose"


def docker(*arguments: str, environ: Mapping[str, str] | None = None, text: str = "") -> str:
    """Run `docker`, with ``text`` on its standard input, and return what it printed.

    Raises:
        CommandError: it failed, with its last line.
    """
    if shutil.which("docker") is None:
        raise CommandError("there is no docker command")
    ran = subprocess.run(
        docker_command(*arguments),
        cwd=ROOT,
        env=environ,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise CommandError(f"docker {' '.join(arguments[:2])}: {last_line(ran.stderr, f'status {ran.returncode}')}")
    return ran.stdout


def shown(*arguments: str, environ: Mapping[str, str] | None = None) -> int:
    """Run `docker` with its output where the user sees it; its status."""
    sys.stdout.flush()
    return subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, check=False
    ).returncode


def docker_command(*arguments: str) -> list[str]:
    """Return the command line of `docker`, for a caller that runs it itself."""
    return ["docker", *arguments]


def replace_process(*arguments: str, environ: Mapping[str, str]) -> None:
    """Become `docker`. Does not return."""
    sys.stdout.flush()
    os.chdir(ROOT)
    os.execvpe("docker", ["docker", *arguments], dict(environ))  # noqa: S606


def engine_missing() -> str | None:
    """Return why there is no engine that can run the stack, or None where there is one."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for question, answer in (
        (["version", "--format", "{{.Server.Version}}"], "no Docker engine answers"),
        (["compose", "version"], "docker has no compose plugin"),
        (["buildx", "version"], "docker has no buildx plugin"),
    ):
        try:
            docker(*question)
        except CommandError:
            return answer
    return None


def engine_version() -> str:
    """Return the version of the engine."""
    return docker("version", "--format", "{{.Server.Version}}").strip()


def engine_cpus() -> int:
    """Return the number of CPUs of the engine's machine, which refuses a limit above it."""
    return int(docker("info", "--format", "{{.NCPU}}"))


def is_local() -> bool:
    """Whether the engine runs on this machine, so that its ports are ours to look at."""
    place = os.environ.get("DOCKER_HOST") or docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    return place.startswith("unix://")


def image_id(image: str) -> str | None:
    """The engine's id of an image; None if it does not have it."""
    try:
        return docker("image", "inspect", "--format", "{{.Id}}", image).strip()
    except CommandError:
        return None


@dataclass(frozen=True, slots=True)
class Container:
    """One container, as the engine sees it. Sizes in bytes; 0 is no limit."""

    id: str
    name: str
    service: str
    number: int
    image: str
    config: str
    code: str
    folder: str
    state: str
    health: str
    oom_killed: bool
    restarts: int
    started: datetime
    cpus: float
    memory: int

    @property
    def hostname(self) -> str:
        """The host name of the container, which is the replica's part of ``X-Served-By``."""
        return self.id[:12]

    @property
    def well(self) -> bool:
        """Return whether the container runs and passes its health check, if it has one."""
        return self.state == "running" and self.health in ("healthy", "none")

    @property
    def failed(self) -> bool:
        """Whether it does not answer, and ended at least once rather than being on its way."""
        return not self.well and (
            self.restarts > 0 or self.oom_killed or self.state in ("exited", "dead", "restarting")
        )

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Container:
        """Return the container that a document of `docker inspect` describes."""
        labels, state, limits = document["Config"]["Labels"], document["State"], document["HostConfig"]
        return cls(
            id=document["Id"],
            name=document["Name"].removeprefix("/"),
            service=labels[f"{_LABEL}.service"],
            number=int(labels[f"{_LABEL}.container-number"]),
            image=document["Image"],
            config=labels.get(CONFIG_LABEL, ""),
            code=labels.get(CODE_LABEL, ""),
            folder=labels.get(f"{_LABEL}.project.working_dir", ""),
            state=state["Status"],
            health=(state.get("Health") or {}).get("Status", "none"),
            oom_killed=state["OOMKilled"],
            restarts=document["RestartCount"],
            # Nanoseconds are more than datetime reads.
            started=datetime.fromisoformat(state["StartedAt"][:19] + "+00:00"),
            cpus=limits["NanoCpus"] / 1e9,
            memory=limits["Memory"],
        )


def inspect(ids: Sequence[str]) -> list[Container]:
    """The containers of a stack's services among these that still exist, in the order of services and numbers."""
    if not ids:
        return []
    # One that went meanwhile makes `docker inspect` fail, and is left out all the same.
    ran = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=False)
    found = [Container.parse(document) for document in json.loads(ran.stdout or "[]")]
    ours = [container for container in found if container.service in _KNOWN]
    return sorted(ours, key=lambda container: (_KNOWN.index(container.service), container.number))


def log_lines(container: str, most: int) -> list[str]:
    """The last lines that a container printed."""
    ran = subprocess.run(
        ["docker", "logs", "--tail", str(most), container],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    return ran.stdout.strip().splitlines()


class Compose:
    """The checkout's `docker-compose.yml`, filled in with these variables and with nothing else."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        # TLS brings a port along, which Compose cannot leave out of a file.
        files = ("docker-compose.yml", "deploy/backends/docker/tls.yml") if variables.get("TLS_CERT") else ()
        chosen = [word for file in files for word in ("--file", file)]
        self._arguments = ("compose", "--env-file", os.devnull, "--ansi", "never", *chosen)
        self._document: dict[str, Any] = {}

    @property
    def environ(self) -> dict[str, str]:
        """The environment of `docker compose`. The user's shell may hold other values of what the file asks for.

        Compose takes the project's folder, and from it the project's name, from PWD, which may lead there by a link.
        """
        kept = {name: value for name, value in os.environ.items() if name not in COMPOSE_VARIABLES}
        return {**kept, "PWD": str(ROOT), **self._variables}

    def run(self, *arguments: str, text: str = "") -> str:
        """`docker compose ..`, quietly, with ``text`` on its standard input."""
        return docker(*self._arguments, *arguments, environ=self.environ, text=text)

    def command(self, *arguments: str) -> list[str]:
        """`docker compose ..`, for those who run it themselves, with :attr:`environ`."""
        return docker_command(*self._arguments, *arguments)

    def show(self, *arguments: str) -> int:
        """`docker compose ..`, where the user sees it; its status."""
        return shown(*self._arguments, *arguments, environ=self.environ)

    def become(self, *arguments: str) -> None:
        """`docker compose ..` in place of this process."""
        replace_process(*self._arguments, *arguments, environ=self.environ)

    def config(self) -> dict[str, Any]:
        """Return the file as Compose reads it, which takes it a sixth of a second the first time."""
        if not self._document:
            self._document = json.loads(self.run("config", "--format", "json"))
        return self._document

    def labelled(self, model: str) -> Compose:
        """Return the same with the label by which a replica of this configuration and this model is known again."""
        server = self.config()["services"]["server"]
        configured = {name: server[name] for name in server if name not in ("build", "depends_on", "labels")}
        digest = sha256(json.dumps(configured, sort_keys=True).encode()).hexdigest()[:16]
        label = f"{digest}-{model}"
        one = Compose({**self._variables, "CONFIG_DIGEST": label})
        labels = {**server.get("labels", {}), CONFIG_LABEL: label}
        services = {**self._document["services"], "server": {**server, "labels": labels}}
        one._document = {**self._document, "services": services}
        return one

    def containers(self, service: str | None = None) -> list[Container]:
        """Return the containers of this stack, running or not, without one-shot ones."""
        labels = [f"project={self.config()['name']}", "oneoff=False", *([f"service={service}"] if service else [])]
        filters = [part for label in labels for part in ("--filter", f"label={_LABEL}.{label}")]
        return inspect(docker("ps", "--all", "--quiet", "--no-trunc", *filters).split())
