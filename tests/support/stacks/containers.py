"""A stack in containers for tests, with its own Compose project."""

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
    """A :class:`Stack` whose ``environ`` names the backend and the Compose project."""

    def project_settings(self, name: str, **model: Path) -> dict[str, str]:
        """Return the settings of a separate project on 127.0.0.1.

        ``model`` is COVERTYPE_PATH, the rows to train on, or MODEL_URI.
        """
        return {
            "BACKEND": "docker",
            "COMPOSE_PROJECT_NAME": f"forkcast-{name}-{self.port}",
            "HTTP_HOST": "127.0.0.1",
        } | {variable: str(path) for variable, path in model.items()}

    @property
    def project(self) -> str:
        return self.environ["COMPOSE_PROJECT_NAME"]

    def docker(self, *arguments: str, **variables: str) -> str:
        """Run `docker`, which must succeed, and return its output."""
        environ = {**clean_environ(), **self.environ, **variables}
        ran = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=300
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return `docker inspect` of the containers of a service, in the order of their numbers."""
        filters = (
            "--filter",
            f"label={_LABEL}={self.project}",
            "--filter",
            f"label=com.docker.compose.service={service}",
        )
        ids = self.docker("ps", "--all", "--quiet", *filters).split()
        documents = json.loads(self.docker("inspect", *ids)) if ids else []
        number_label = "com.docker.compose.container-number"
        return sorted(documents, key=lambda document: int(document["Config"]["Labels"][number_label]))

    def replicas(self) -> list[str]:
        """Return the host names of the replicas, which are their names in answers."""
        return [container["Config"]["Hostname"] for container in self.containers("server")]

    def replica_health(self, container: str) -> dict[str, Any]:
        """Return the answer of /health of the replica in a container."""
        ask = ("python", "-IS", "/usr/local/lib/forkcast/ask.py", "8000", "/health")
        document: dict[str, Any] = json.loads(self.docker("exec", container, *ask))
        return document

    def leftovers(self) -> list[str]:
        """Return the project's containers, volumes, networks and images, such as ``volume NAME``."""
        label = f"label={_LABEL}={self.project}"
        lists = (
            self.docker("ps", "--all", "--format", "container {{.Names}}", "--filter", label),
            self.docker("volume", "ls", "--format", "volume {{.Name}}", "--filter", label),
            self.docker("network", "ls", "--format", "network {{.Name}}", "--filter", label),
            self.docker("image", "ls", "--format", "image {{.Repository}}", "--filter", label),
        )
        return [line for text in lists for line in text.splitlines()]


def require_engine() -> None:
    """Skip the test if no engine is available, or fail it if REQUIRE_DOCKER is set, as in CI."""
    reason = engine_missing()
    if reason and os.environ.get("REQUIRE_DOCKER"):
        pytest.fail(f"REQUIRE_DOCKER is set, but {reason}")
    if reason:
        pytest.skip(f"needs Docker: {reason}")
