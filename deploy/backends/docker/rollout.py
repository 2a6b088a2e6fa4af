"""The replicas and the registrar of a promotion (:mod:`deploy.rollout.promotion`) in containers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.backends.docker.engine import Compose, Container, docker, inspect
from deploy.backends.docker.provider import run_program
from deploy.backends.docker.reasons import reason
from deploy.backends.docker.watch import replica_health

# How long after a container ended the engine may need to report that it was out of memory.
_OOM_REPORT_DELAY_SECONDS = 1.0


@dataclass(slots=True)
class ContainerReplica:
    """One container of the service `server`; ``has_published_image`` if its image was not built here."""

    container: Container
    compose: Compose
    has_published_image: bool = False

    @property
    def name(self) -> str:
        """The container's name, as `docker ps` shows it."""
        return self.container.name

    def runs_code(self, digest: str) -> bool:
        """Return whether the image was built from this code; a published image may come from another checkout."""
        return self.has_published_image or self.container.code_digest == digest

    def health(self) -> Mapping[str, Any]:
        """Return the replica's `/health` document; empty if it does not answer."""
        return replica_health(self.container)

    def send_sighup(self) -> None:
        """Send SIGHUP to Gunicorn's master through process 1 of the container.

        `docker kill` with any signal would keep the engine from restarting the container when it ends later.
        """
        self.container = self._inspect() or self.container
        docker("exec", self.container.id, "sh", "-c", "kill -HUP 1")

    def failure(self) -> str | None:
        """Return why the container ended or was removed since the reload, or None."""
        container = self._inspect()
        if container is None:
            return "the container was removed by another process"
        if container.state == "running" and container.started == self.container.started:
            return None
        time.sleep(_OOM_REPORT_DELAY_SECONDS)
        return f"it ended while it reloaded: {reason(container, self.compose)}"

    def _inspect(self) -> Container | None:
        return next(iter(inspect([self.container.id])), None)


@dataclass(frozen=True, slots=True)
class ContainerRegistrar:
    """The steps of :mod:`deploy.models.promote`, each in a container that is removed afterwards."""

    compose: Compose

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        """Copy the candidate into the volume of the replicas and test it."""
        options = [*(["--served", served] if served else []), *(["--force"] if force else [])]
        return self._run_step("check", *options, *(["--", version] if version else ["--before"]))

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Point the registry's alias and the record in the volume to the candidate."""
        return self._run_step("accept", "--current", document=candidate)

    def undo(self, previous: Mapping[str, Any]) -> None:
        """Restore what the candidate replaced; ``previous`` is the result of :meth:`accept`."""
        self._run_step("undo", document=previous)

    def _run_step(self, *arguments: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        output = run_program(self.compose, "deploy.models.promote", *arguments, text=json.dumps(document or {}))
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
        return answer
