"""What containers use, as the engine counts it: its API over its Unix socket, since `docker stats` costs a process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from deploy.backends.docker.engine import docker
from deploy.errors import CommandError
from deploy.rollout.replica_client import UnixConnection
from deploy.scaling.usage import LOCUST, NGINX, SERVER, Reading

_LABEL = "com.docker.compose"
# Seconds that the engine may take for one answer, and after which new containers are looked for.
_PATIENCE = 5.0
_LOOK_AGAIN = 5.0


def engine_socket() -> str:
    """The path of the engine's Unix socket.

    Raises:
        CommandError: it is reached in another way.
    """
    place = (
        os.environ.get("DOCKER_HOST") or docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
    )
    if not place.startswith("unix://"):
        raise CommandError(f"the engine at {place} cannot be asked for statistics: expected one at unix://..")
    return place.removeprefix("unix://")


@dataclass(frozen=True, slots=True)
class _Container:
    """One that runs, with its limits: CPUs, and bytes."""

    id: str
    name: str
    service: str
    cpus: float | None
    memory: int | None


class Statistics:
    """The replicas and the Nginx of one Compose project, and load generators by their containers' names.

    A generator need not be there yet.
    """

    def __init__(self, socket: str, project: str, generators: Sequence[str] = ()) -> None:
        self._socket = socket
        self._project = project
        self._generators = generators
        self._containers: dict[str, _Container] = {}
        self._looked: float | None = None

    def read(self) -> list[Reading]:
        """One reading a container that runs.

        Raises:
            OSError, HTTPException, ValueError, KeyError: the engine does not answer, or not in a way that is known.
        """
        with closing(UnixConnection(self._socket, _PATIENCE)) as engine:
            if self._looked is None or time.monotonic() - self._looked > _LOOK_AGAIN:
                self._look(engine)
            readings = [_reading(engine, container) for container in self._containers.values()]
        if None in readings:
            self._looked = None
        return [reading for reading in readings if reading]

    def _look(self, engine: UnixConnection) -> None:
        """Learn which containers run now; the limits of one that is known stay as they were."""
        ours = [f"{_LABEL}.project={self._project}", f"{_LABEL}.oneoff=False"]
        found = [(one, one["Labels"].get(f"{_LABEL}.service", "")) for one in _list(engine, {"label": ours})]
        found = [(one, service) for one, service in found if service in (SERVER, NGINX)]
        if self._generators:
            names = {"name": [f"^/{name}$" for name in self._generators]}
            found += [(one, LOCUST) for one in _list(engine, names)]
        before, self._containers = self._containers, {}
        for one, service in found:
            if known := before.get(one["Id"]) or _inspect(engine, one["Id"], service):
                self._containers[one["Id"]] = known
        self._looked = time.monotonic()


def _list(engine: UnixConnection, filters: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    return list(_ask(engine, f"/containers/json?filters={quote(json.dumps(filters))}") or [])


def _inspect(engine: UnixConnection, key: str, service: str) -> _Container | None:
    document = _ask(engine, f"/containers/{key}/json")
    if not document:
        return None
    limits = document["HostConfig"]
    quota = limits.get("CpuQuota", 0) / (limits.get("CpuPeriod") or 100_000)
    cpus = limits["NanoCpus"] / 1e9 or max(0.0, quota)
    return _Container(key, document["Name"].removeprefix("/"), service, cpus or None, limits["Memory"] or None)


def _reading(engine: UnixConnection, container: _Container) -> Reading | None:
    document = _ask(engine, f"/containers/{container.id}/stats?stream=false&one-shot=true")
    return _parse(container, document) if document else None


def _ask(engine: UnixConnection, target: str) -> Any:
    """The document; None if there is no such container."""
    engine.request("GET", target)
    response = engine.getresponse()
    body = response.read()
    if response.status == 404:
        return None
    if response.status != 200:
        raise OSError(f"the engine answered {response.status}: {body[:200].decode(errors='replace')}")
    return json.loads(body)


def _parse(container: _Container, document: Mapping[str, Any]) -> Reading | None:
    """The engine's statistics of one container; None of one that has ended."""
    read = datetime.fromisoformat(document["read"])
    if read.year == 1:
        return None
    cpu, memory = document["cpu_stats"], document["memory_stats"]
    return Reading(
        # A container that is made anew takes its name again.
        name=f"{container.name} {container.id[:12]}",
        service=container.service,
        time=read.timestamp(),
        cpu_seconds=cpu["cpu_usage"]["total_usage"] / 1e9,
        memory=_held(memory),
        cpu_limit=container.cpus,
        memory_limit=container.memory,
        throttled=cpu.get("throttling_data", {}).get("throttled_time", 0) / 1e9,
    )


def _held(memory: Mapping[str, Any]) -> int:
    """As `docker stats` counts: without pages of files that nobody has used lately, on cgroup v1 and v2."""
    usage, stats = int(memory.get("usage", 0)), memory.get("stats") or {}
    idle = int(stats.get("total_inactive_file", stats.get("inactive_file", 0)))
    return usage - idle if idle < usage else usage
