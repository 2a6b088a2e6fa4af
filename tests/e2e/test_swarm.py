"""The stack in a Docker Swarm of one node, by Docker's own commands."""

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

# What Docker makes for the first swarm, and leaves behind.
_GATEWAY = "docker_gwbridge"


@pytest.fixture
def swarm(covertype_csv: Path) -> Iterator[SwarmStack]:
    """A swarm of this test's own, with images built here; nothing is left of either."""
    require_engine()
    port = free_port()
    name = f"forkcast-test-swarm-{port}"
    own = {
        "IMAGE": name, "N": "1", "HTTP_PORT": str(port), "UPDATE_DELAY": "0s", "UPDATE_MONITOR": "5s",
        "MODEL_URI": "models:/covertype/1", "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "COVERTYPE_PATH": str(covertype_csv), "COMPOSE_PROJECT_NAME": name,
    }  # fmt: skip
    stack = SwarmStack(name, clean_environ() | own)
    if why_not := occupied(stack):
        (pytest.fail if os.environ.get("REQUIRE_DOCKER") else pytest.skip)(why_not)
    gateway = _GATEWAY in stack.docker("network", "ls", "--format", "{{.Name}}").split()
    stack.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        stack.docker("compose", "build", "--quiet", "server", "nginx", "model")
        yield stack
    finally:
        leave(stack, keep_gateway=gateway)


def occupied(stack: SwarmStack) -> str:
    """What is on this engine that a swarm which comes and goes would disturb, in words."""
    if (state := stack.docker("info", "--format", "{{.Swarm.LocalNodeState}}")) != "inactive":
        return f"needs an engine in no swarm; this one's is {state}"
    # Leaving a swarm makes the engine forget the names of all containers that run, of any network.
    running = stack.docker("ps", "--format", "{{.Names}}").split()
    return f"needs an engine without running containers; this one has {running[0]}" if running else ""


def leave(stack: SwarmStack, *, keep_gateway: bool) -> None:
    """The stack, its volumes and images, and the swarm are gone."""
    label = f"label=com.docker.stack.namespace={stack.name}"
    stack.docker("stack", "rm", "--detach=false", stack.name)
    stack.docker("swarm", "leave", "--force")
    for things, remove in (
        (["ps", "--all", "--quiet", "--filter", label], ["rm", "--force", "--volumes"]),
        (["volume", "ls", "--quiet", "--filter", label], ["volume", "rm"]),
        (["image", "ls", "--quiet", "--filter", f"reference={stack.name}-*"], ["image", "rm", "--force"]),
    ):
        if found := sorted(set(stack.docker(*things).split())):
            stack.docker(*remove, *found)
    if not keep_gateway:
        subprocess.run(["docker", "network", "rm", _GATEWAY], cwd=ROOT, capture_output=True, check=False)


def answered(address: str) -> str:
    """The version that predicted, once Nginx has found the replicas."""

    def predict() -> tuple[int, Any]:
        return request_json(address, "POST", "/predict", WORKSHOP_ROW)

    def version() -> str | None:
        status, answer = predict()
        return str(answer["model_version"]) if status == 200 else None

    return wait_until(version, pause=0.1, describe=predict)


def test_swarm_loses_no_request(swarm: SwarmStack) -> None:
    """A stack trains, predicts, scales, and moves to another version, and no request fails meanwhile."""
    port = int(swarm.environ["HTTP_PORT"])
    swarm.deploy("registry.yml")  # its job trains version 1
    swarm.deploy("stack.yml")
    assert answered(f"http://127.0.0.1:{port}") == "1"
    (replica, *_) = json.loads(swarm.docker("inspect", swarm.replicas()[0]))
    assert replica["HostConfig"]["ReadonlyRootfs"]
    with Load(port, connections=16, pause_seconds=0.05) as load:
        swarm.scale(2)
        swarm.update("--force", service="train")  # version 2
        swarm.update("--env-add", "MODEL_URI=models:/covertype/2")
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    assert set(load.counts.versions) == {"1", "2"}
    assert answered(f"http://127.0.0.1:{port}") == "2"
