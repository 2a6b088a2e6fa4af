"""End-to-end tests of the stack in a Docker Swarm of one node, controlled by Docker's commands."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.rollout.replica_client import request_json
from deploy.stack.paths import ROOT
from tests.support.ports import free_port
from tests.support.stacks.containers import require_engine
from tests.support.stacks.local import clean_environ
from tests.support.stress.load import WORKSHOP_ROW, Load
from tests.support.stress.swarm import SwarmStack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

# Docker creates this network for the first swarm and does not remove it.
_GATEWAY_NETWORK = "docker_gwbridge"


@pytest.fixture
def swarm(covertype_csv: Path) -> Iterator[SwarmStack]:
    """A new swarm with images built from this checkout; both are removed after the test."""
    require_engine()
    port = free_port()
    name = f"forkcast-test-swarm-{port}"
    settings = {
        "IMAGE": name, "N": "1", "HTTP_PORT": str(port), "UPDATE_DELAY": "0s", "UPDATE_MONITOR": "5s",
        "MODEL_URI": "models:/covertype/1", "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "COVERTYPE_PATH": str(covertype_csv), "COMPOSE_PROJECT_NAME": name,
    }  # fmt: skip
    stack = SwarmStack(name, clean_environ() | settings)
    if reason := unsuitable_engine(stack):
        (pytest.fail if os.environ.get("REQUIRE_DOCKER") else pytest.skip)(reason)
    had_gateway = _GATEWAY_NETWORK in stack.docker("network", "ls", "--format", "{{.Name}}").split()
    stack.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        stack.docker("compose", "build", "--quiet", "server", "nginx", "model")
        yield stack
    finally:
        leave(stack, keep_gateway=had_gateway)


def unsuitable_engine(stack: SwarmStack) -> str:
    """Return why creating and leaving a swarm would disturb this engine, or an empty string."""
    if (state := stack.docker("info", "--format", "{{.Swarm.LocalNodeState}}")) != "inactive":
        return f"needs an engine in no swarm; this one's is {state}"
    # Leaving a swarm makes the engine forget the DNS names of all running containers, in any network.
    running = stack.docker("ps", "--format", "{{.Names}}").split()
    return f"needs an engine without running containers; this one has {running[0]}" if running else ""


def leave(stack: SwarmStack, *, keep_gateway: bool) -> None:
    """Remove the stack, its volumes and images, and leave the swarm."""
    label = f"label=com.docker.stack.namespace={stack.name}"
    stack.docker("stack", "rm", "--detach=false", stack.name)
    stack.docker("swarm", "leave", "--force")
    for list_command, remove_command in (
        (["ps", "--all", "--quiet", "--filter", label], ["rm", "--force", "--volumes"]),
        (["volume", "ls", "--quiet", "--filter", label], ["volume", "rm"]),
        (["image", "ls", "--quiet", "--filter", f"reference={stack.name}-*"], ["image", "rm", "--force"]),
    ):
        if ids := sorted(set(stack.docker(*list_command).split())):
            stack.docker(*remove_command, *ids)
    if not keep_gateway:
        subprocess.run(["docker", "network", "rm", _GATEWAY_NETWORK], cwd=ROOT, capture_output=True, check=False)


def served_version(address: str) -> str:
    """Wait until Nginx has found the replicas, and return the version that predicts."""

    def predict() -> tuple[int, Any]:
        return request_json(address, "POST", "/predict", WORKSHOP_ROW)

    def version() -> str | None:
        status, answer = predict()
        return str(answer["model_version"]) if status == 200 else None

    return wait_until(version, pause=0.1, describe=predict)


def test_scaling_and_update_in_a_swarm_fail_no_request(swarm: SwarmStack) -> None:
    """A stack in a swarm trains and predicts, and no request fails while it scales and updates to another version."""
    port = int(swarm.environ["HTTP_PORT"])
    swarm.deploy("registry.yml")  # its job trains version 1
    swarm.deploy("stack.yml")
    assert served_version(f"http://127.0.0.1:{port}") == "1"
    (replica, *_) = json.loads(swarm.docker("inspect", swarm.replicas()[0]))
    assert replica["HostConfig"]["ReadonlyRootfs"]
    with Load(port, connections=16, pause_seconds=0.05) as load:
        swarm.scale(2)
        swarm.update("--force", service="train")  # version 2
        swarm.update("--env-add", "MODEL_URI=models:/covertype/2")
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    assert set(load.counts.versions) == {"1", "2"}
    assert served_version(f"http://127.0.0.1:{port}") == "2"
