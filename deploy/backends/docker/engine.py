"""The `docker` commands that the verbs need. No other module of this package runs `docker`."""

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
MONITORING_SERVICES = ("prometheus", "nginx-exporter", "grafana")
_STACK_SERVICES = (*SERVICES, *registry_services.SERVICES, *MONITORING_SERVICES)
# The label that identifies a replica's configuration. Compose's own hash also depends on its command line.
CONFIG_LABEL = "forkcast.config"
# The label that holds the digest of the code in an image.
CODE_LABEL = "forkcast.code"

# What a program of ours prints before the reason why it failed.
_ERROR = "error: "
_COMPOSE_LABEL_PREFIX = "com.docker.compose"


def docker(*arguments: str, environ: Mapping[str, str] | None = None, text: str = "") -> str:
    """Run `docker`, with ``text`` on its standard input, and return what it printed.

    Raises:
        CommandError: the command failed, with the last line of its standard error.
    """
    if shutil.which("docker") is None:
        raise CommandError("there is no docker command")
    completed = subprocess.run(
        docker_command(*arguments),
        cwd=ROOT,
        env=environ,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        raise CommandError(
            f"docker {' '.join(arguments[:2])}: {last_line(completed.stderr, f'status {completed.returncode}')}"
        )
    return completed.stdout


def run_visibly(*arguments: str, environ: Mapping[str, str] | None = None) -> int:
    """Run `docker` with its output on this process's own; return its exit status."""
    sys.stdout.flush()
    return subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, check=False
    ).returncode


def docker_command(*arguments: str) -> list[str]:
    """Return the command line of `docker`, for a caller that starts the process itself."""
    return ["docker", *arguments]


def replace_process(*arguments: str, environ: Mapping[str, str]) -> None:
    """Replace this process by `docker`; does not return."""
    sys.stdout.flush()
    os.chdir(ROOT)
    os.execvpe("docker", ["docker", *arguments], dict(environ))  # noqa: S606


def engine_missing() -> str | None:
    """Return why no Docker engine can run the stack, or None if one can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command, reason in (
        (["version", "--format", "{{.Server.Version}}"], "no Docker engine answers"),
        (["compose", "version"], "docker has no compose plugin"),
        (["buildx", "version"], "docker has no buildx plugin"),
    ):
        try:
            docker(*command)
        except CommandError:
            return reason
    return None


def engine_version() -> str:
    """Return the version of the Docker engine."""
    return docker("version", "--format", "{{.Server.Version}}").strip()


def engine_cpus() -> int:
    """Return the number of CPUs of the engine's machine; the engine refuses a higher limit."""
    return int(docker("info", "--format", "{{.NCPU}}"))


def is_engine_local() -> bool:
    """Return whether the engine runs on this machine, so that its ports can be checked here."""
    endpoint = os.environ.get("DOCKER_HOST") or docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    return endpoint.startswith("unix://")


def image_id(image: str) -> str | None:
    """Return the engine's id of an image, or None if it does not have the image."""
    try:
        return docker("image", "inspect", "--format", "{{.Id}}", image).strip()
    except CommandError:
        return None


@dataclass(frozen=True, slots=True)
class Container:
    """One container as `docker inspect` describes it. Memory is in bytes; a limit of 0 means none."""

    id: str
    name: str
    service: str
    number: int
    image: str
    config_label: str
    code_digest: str
    project_folder: str
    state: str
    health: str
    oom_killed: bool
    restarts: int
    started: datetime
    cpus: float
    memory: int

    @property
    def hostname(self) -> str:
        """The host name of the container; ``X-Served-By`` begins with it."""
        return self.id[:12]

    @property
    def is_ready(self) -> bool:
        """Return whether the container runs and passes its health check, if it has one."""
        return self.state == "running" and self.health in ("healthy", "none")

    @property
    def failed(self) -> bool:
        """Return whether the container is not ready and ended at least once, so that it is not just starting."""
        return not self.is_ready and (
            self.restarts > 0 or self.oom_killed or self.state in ("exited", "dead", "restarting")
        )

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Container:
        """Return the container that a document of `docker inspect` describes."""
        labels, state, limits = document["Config"]["Labels"], document["State"], document["HostConfig"]
        return cls(
            id=document["Id"],
            name=document["Name"].removeprefix("/"),
            service=labels[f"{_COMPOSE_LABEL_PREFIX}.service"],
            number=int(labels[f"{_COMPOSE_LABEL_PREFIX}.container-number"]),
            image=document["Image"],
            config_label=labels.get(CONFIG_LABEL, ""),
            code_digest=labels.get(CODE_LABEL, ""),
            project_folder=labels.get(f"{_COMPOSE_LABEL_PREFIX}.project.working_dir", ""),
            state=state["Status"],
            health=(state.get("Health") or {}).get("Status", "none"),
            oom_killed=state["OOMKilled"],
            restarts=document["RestartCount"],
            # The nanoseconds are cut off, since datetime cannot parse them.
            started=datetime.fromisoformat(state["StartedAt"][:19] + "+00:00"),
            cpus=limits["NanoCpus"] / 1e9,
            memory=limits["Memory"],
        )


def inspect(ids: Sequence[str]) -> list[Container]:
    """Return those of these containers that still exist and belong to a stack, ordered by service and number."""
    if not ids:
        return []
    # For a container that was removed meanwhile `docker inspect` fails but still prints the others.
    completed = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=False)
    containers = [Container.parse(document) for document in json.loads(completed.stdout or "[]")]
    stack_containers = [container for container in containers if container.service in _STACK_SERVICES]
    return sorted(stack_containers, key=lambda container: (_STACK_SERVICES.index(container.service), container.number))


def log_lines(container: str, count: int) -> list[str]:
    """Return the last lines, at most ``count``, that a container printed."""
    completed = subprocess.run(
        ["docker", "logs", "--tail", str(count), container],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    return completed.stdout.strip().splitlines()


class Compose:
    """The checkout's `docker-compose.yml` with exactly these variables."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        # TLS needs its own file: a variable cannot leave a published port out of docker-compose.yml.
        files = ("docker-compose.yml", "deploy/backends/docker/tls.yml") if variables.get("TLS_CERT") else ()
        file_options = [word for file in files for word in ("--file", file)]
        self._arguments = ("compose", "--env-file", os.devnull, "--ansi", "never", *file_options)
        self._document: dict[str, Any] = {}

    @property
    def environ(self) -> dict[str, str]:
        """The environment of `docker compose`, without the variables of docker-compose.yml that the user's shell sets.

        Compose derives the project's folder and name from PWD, which could contain a symbolic link.
        """
        kept = {name: value for name, value in os.environ.items() if name not in COMPOSE_VARIABLES}
        return {**kept, "PWD": str(ROOT), **self._variables}

    def run(self, *arguments: str, text: str = "") -> str:
        """Run `docker compose` with ``text`` on its standard input; return what it printed."""
        return docker(*self._arguments, *arguments, environ=self.environ, text=text)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `docker compose`, for a caller that starts it with :attr:`environ`."""
        return docker_command(*self._arguments, *arguments)

    def run_visibly(self, *arguments: str) -> None:
        """Run `docker compose` with the output of its program on this process's own.

        Raises:
            CommandError: the program failed, with the error that it printed as its last line.
        """
        command = self.command("--progress", "quiet", *arguments)
        sys.stdout.flush()
        held_back = ""
        with subprocess.Popen(
            command, cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                for line in process.stderr or ():
                    text = line.decode(errors="replace")
                    sys.stderr.write(held_back)
                    held_back = text if text.startswith(_ERROR) else ""
                    sys.stderr.write(text if not held_back else "")
                    sys.stderr.flush()
            except BaseException:  # As subprocess.run() does, so that an interrupted command does not wait for it.
                process.kill()
                raise
        if process.returncode and held_back.startswith(_ERROR):
            raise CommandError(held_back.removeprefix(_ERROR).strip())
        sys.stderr.write(held_back)
        if process.returncode:
            raise CommandError(f"docker compose {arguments[0]} ended with status {process.returncode}")

    def replace_process(self, *arguments: str) -> None:
        """Replace this process by `docker compose`; does not return."""
        replace_process(*self._arguments, *arguments, environ=self.environ)

    def config(self) -> dict[str, Any]:
        """Return the file as Compose parses it; the first call takes about 0.2 s."""
        if not self._document:
            self._document = json.loads(self.run("config", "--format", "json"))
        return self._document

    def with_config_label(self, model: str) -> Compose:
        """Return a copy whose replicas carry a label that identifies their configuration and this model."""
        server = self.config()["services"]["server"]
        configured = {name: server[name] for name in server if name not in ("build", "depends_on", "labels")}
        digest = sha256(json.dumps(configured, sort_keys=True).encode()).hexdigest()[:16]
        label = f"{digest}-{model}"
        compose = Compose({**self._variables, "CONFIG_DIGEST": label})
        labels = {**server.get("labels", {}), CONFIG_LABEL: label}
        services = {**self._document["services"], "server": {**server, "labels": labels}}
        compose._document = {**self._document, "services": services}
        return compose

    def containers(self, service: str | None = None) -> list[Container]:
        """Return the containers of this stack, running or not, except one-shot ones."""
        labels = [f"project={self.config()['name']}", "oneoff=False", *([f"service={service}"] if service else [])]
        filters = [word for label in labels for word in ("--filter", f"label={_COMPOSE_LABEL_PREFIX}.{label}")]
        return inspect(docker("ps", "--all", "--quiet", "--no-trunc", *filters).split())
