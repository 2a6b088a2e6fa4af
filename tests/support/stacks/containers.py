"""A stack in containers for the tests: a Compose project of its own, and what the engine says of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.backends.docker.engine import engine_missing
from deploy.stack.paths import ROOT
from tests.support.stacks.local import Stack, clean_environ

_LABEL = "com.docker.compose.project"


class ContainerStack(Stack):
    """A :class:`Stack` whose ``environ`` names the backend and the project."""

    def own_settings(self, name: str, **model: Path) -> dict[str, str]:
        """Return the settings of a project of its own, on 127.0.0.1, with COVERTYPE_PATH to train on, or MODEL_URI."""
        return {
            "BACKEND": "docker",
            "COMPOSE_PROJECT_NAME": f"forkcast-{name}-{self.port}",
            "HTTP_HOST": "127.0.0.1",
        } | {variable: str(path) for variable, path in model.items()}

    @property
    def project(self) -> str:
        return self.environ["COMPOSE_PROJECT_NAME"]

    def docker(self, *arguments: str, **variables: str) -> str:
        """Run `docker`, which must succeed; what it printed."""
        environ = {**clean_environ(), **self.environ, **variables}
        ran = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=300
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What `docker inspect` says of a service's containers, in the order of their numbers."""
        ours = ("--filter", f"label={_LABEL}={self.project}", "--filter", f"label=com.docker.compose.service={service}")
        ids = self.docker("ps", "--all", "--quiet", *ours).split()
        found = json.loads(self.docker("inspect", *ids)) if ids else []
        return sorted(found, key=lambda one: int(one["Config"]["Labels"]["com.docker.compose.container-number"]))

    def replicas(self) -> list[str]:
        """The host names of the replicas."""
        return [one["Config"]["Hostname"] for one in self.containers("server")]

    def replica_health(self, container: str) -> dict[str, Any]:
        """What one replica says of itself."""
        ask = ("python", "-IS", "/usr/local/lib/forkcast/ask.py", "8000", "/health")
        document: dict[str, Any] = json.loads(self.docker("exec", container, *ask))
        return document

    def leftovers(self) -> list[str]:
        """All that the engine still has of this project."""
        label = f"label={_LABEL}={self.project}"
        lists = (
            self.docker("ps", "--all", "--format", "container {{.Names}}", "--filter", label),
            self.docker("volume", "ls", "--format", "volume {{.Name}}", "--filter", label),
            self.docker("network", "ls", "--format", "network {{.Name}}", "--filter", label),
            self.docker("image", "ls", "--format", "image {{.Repository}}", "--filter", label),
        )
        return [line for text in lists for line in text.splitlines()]


def require_engine() -> None:
    """Skip, with the reason, where there is no engine; where one was promised, as in CI, that is a failure."""
    why_not = engine_missing()
    if why_not and os.environ.get("REQUIRE_DOCKER"):
        pytest.fail(f"REQUIRE_DOCKER is set, but {why_not}")
    if why_not:
        pytest.skip(f"needs Docker: {why_not}")
