"""The replicas and the registrar of :mod:`deploy.rollout.promotion` in containers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.backends.docker.engine import Compose, Container, docker, inspect
from deploy.backends.docker.provider import step
from deploy.backends.docker.reasons import reason
from deploy.backends.docker.watch import health

# Seconds until the engine tells of a container for which memory was short that it was.
_NEWS = 1.0


@dataclass(slots=True)
class ContainerReplica:
    """One container of the service `server`."""

    container: Container
    compose: Compose
    has_published_image: bool = False

    @property
    def name(self) -> str:
        """As `docker ps` calls it."""
        return self.container.name

    def runs_code(self, digest: str) -> bool:
        """Return whether its image was built from this code; a published one may be of another checkout."""
        return self.has_published_image or self.container.code == digest

    def health(self) -> Mapping[str, Any]:
        """What it says of itself."""
        return health(self.container)

    def send_sighup(self) -> None:
        """Tell Gunicorn's master, through process 1, to reload.

        From within: whatever signal `docker kill` sends, the engine never starts that container again by itself.
        """
        self.container = self._now() or self.container
        docker("exec", self.container.id, "sh", "-c", "kill -HUP 1")

    def failure(self) -> str | None:
        """Why the container has ended meanwhile, if it has."""
        now = self._now()
        if now is None:
            return "the container was removed by somebody else"
        if now.state == "running" and now.started == self.container.started:
            return None
        time.sleep(_NEWS)
        return f"it ended while it reloaded: {reason(now, self.compose)}"

    def _now(self) -> Container | None:
        return next(iter(inspect([self.container.id])), None)


@dataclass(frozen=True, slots=True)
class ContainerRegistrar:
    """The steps of :mod:`deploy.models.promote`, each in a container that is thrown away."""

    compose: Compose

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        """Bring the candidate into the replicas' volume, and try it."""
        options = [*(["--served", served] if served else []), *(["--force"] if force else [])]
        return self._step("check", *options, *(["--", version] if version else ["--before"]))

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Let the registry's alias, and the volume's record, lead to it."""
        return self._step("accept", "--current", document=candidate)

    def undo(self, previous: Mapping[str, Any]) -> None:
        """Point them to what :meth:`accept` returned."""
        self._step("undo", document=previous)

    def _step(self, *arguments: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        printed = step(self.compose, "deploy.models.promote", *arguments, text=json.dumps(document or {}))
        answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return answer
