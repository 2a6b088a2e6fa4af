"""Tests of converging to a stack, with a fake `docker` command."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path

import pytest

from deploy.backends.docker.convergence import converge
from deploy.backends.docker.engine import Compose, Container
from deploy.rollout import replica_client
from deploy.stack.paths import Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack
from tests.support.fake_docker import FakeDocker, container

STACK = Stack(1, "127.0.0.1", 8080, 8089, 1, {}, "1G", "docker")


def test_old_replica_stops_after_the_new_one_answered_through_nginx(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old replica stops only after its replacement has answered a request through Nginx."""
    layout = Layout(tmp_path / "var")
    layout.make()
    docker.start_engine()
    docker.answer("compose", "up")
    docker.answer("stop")
    docker.allow_scaling()
    docker.containers(container(number=1))
    old, new = (Container.parse(container(number=number)) for number in (1, 2))
    answers = chain([old.hostname] * 2, repeat(new.hostname))
    answered_before_stop: list[str] = []

    def identify(_address: str, _access: replica_client.Access) -> replica_client.Identity:
        replica = next(answers)
        if not docker.ran("stop"):
            answered_before_stop.append(replica)
        return replica_client.Identity(replica, "1")

    monkeypatch.setattr(replica_client, "listens", lambda _address: True)
    monkeypatch.setattr(replica_client, "identify", identify)
    converge(Compose({}), Record(STACK), layout, replace_all=True)
    assert answered_before_stop == [old.hostname, old.hostname, new.hostname]
    assert docker.ran("stop") == [["stop", old.id]]
