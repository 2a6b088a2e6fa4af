"""Tests of the reasons that are reported for failed containers and lost workers."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.backends.docker.engine import Compose, Container
from deploy.backends.docker.reasons import container_note, reason
from tests.support.fake_docker import FakeDocker, container

COMPOSE = Compose({})
M = 1 << 20
OOM_EVENT = "2026-01-02T03:04:05 container oom 0123 (image=forkcast-server)\n"


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine without out-of-memory events, and a model that needs 200 MiB."""
    docker.start_engine()
    docker.answer("logs")
    docker.answer("events")
    docker.answer("compose", "run", "cat", out={"name": "covertype", "needs": 200 * M})
    return docker


def failed(**changes: Any) -> Container:
    return Container.parse(container(**{"Status": "restarting", "restarts": 3, "memory": 128 * M, **changes}))


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("INFO starting\nforkcast: the model has no signature\n", "the model has no signature"),
        ("forkcast: the first\nforkcast: the last\nINFO ended\n", "the last"),
        ("Traceback\n  File\nOSError: no space\n", "OSError: no space"),
        ("", "it printed nothing"),
        ('[alert] out of files\n{"time":"..","status":200}\n', "[alert] out of files"),
        ('{"time":"..","status":200}\n', "it printed nothing"),
        ("\n\n", "it printed nothing"),
    ],
)
def test_reason_is_the_last_error_line(engine: FakeDocker, log: str, expected: str) -> None:
    """The reason is the last error line of this project, or else the last line of the log."""
    engine.answer("logs", out=log)
    assert reason(failed(memory=256 * M), COMPOSE) == expected


def test_memory_of_the_model_is_named_only_for_replicas() -> None:
    """The reason for another service that ran out of memory does not name the memory of the model."""
    prometheus = Container.parse(container("prometheus", Status="exited", OOMKilled=True, memory=512 * M))
    assert reason(prometheus, COMPOSE) == "killed: out of memory at 512M"


def test_silent_replica_with_too_little_memory_ran_out_of_it() -> None:
    """A replica that printed nothing and has less memory than the model needs counts as out of memory."""
    assert reason(failed(), COMPOSE) == "killed: out of memory at 128M; the model needs about 200M"


@pytest.mark.parametrize("source", ["flag", "event", "warning"])
def test_out_of_memory_is_recognized(engine: FakeDocker, source: str) -> None:
    """Running out of memory is recognized by the engine's flag, its events, or the replica's last warning."""
    if source == "event":
        engine.answer("events", out=OOM_EVENT)
    if source == "warning":
        engine.answer("logs", out="WARNING memory is limited to 128M, and the model needs about 200M: ..\n")
    text = reason(failed(OOMKilled=source == "flag"), COMPOSE)
    assert text == "killed: out of memory at 128M; the model needs about 200M"


def test_error_after_a_memory_warning_is_the_reason(engine: FakeDocker) -> None:
    """A replica that warned of its memory and then printed an error ended because of that error."""
    warning = "WARNING memory is limited to 128M, and the model needs about 200M: expect to be killed\n"
    engine.answer("logs", out=f"{warning}forkcast: the model has no signature\n")
    assert reason(failed(), COMPOSE) == "the model has no signature"
    engine.answer("logs", out=f"{warning}OSError: no space\n")
    assert reason(failed(), COMPOSE) == "OSError: no space"


def test_events_are_filtered_by_container(engine: FakeDocker) -> None:
    """The engine is asked for past events of this container only, without waiting for new ones."""
    replica = failed()
    reason(replica, COMPOSE)
    (command,) = engine.ran("events")
    assert {f"container={replica.id}", "event=oom", "--until", "0s"} < set(command)


@pytest.mark.parametrize(
    ("memory", "record", "expected"),
    [
        (0, {"needs": 200 * M}, "killed: out of memory; the model needs about 200M"),
        (128 * M, {"needs": None}, "killed: out of memory at 128M"),
        (0, {}, "killed: out of memory"),
        (128 * M, [200 * M], "killed: out of memory at 128M"),
        (128 * M, 200 * M, "killed: out of memory at 128M"),
        (128 * M, "no such file", "killed: out of memory at 128M"),
    ],
)
def test_oom_reason_omits_unknown_figures(engine: FakeDocker, memory: int, record: object, expected: str) -> None:
    """An unknown limit or an unknown memory of the model is left out."""
    engine.answer("compose", "run", "cat", out=record)
    assert reason(failed(OOMKilled=True, memory=memory), COMPOSE) == expected


def test_healthy_container_has_no_note() -> None:
    """A container that is ready or still starting has no note."""
    for document in (container(), container(Health={"Status": "starting"}), container("nginx")):
        assert container_note(Container.parse(document), COMPOSE) is None


def test_failed_container_note_counts_restarts(engine: FakeDocker) -> None:
    """The note of a failed container has its name, the reason and the number of restarts."""
    engine.answer("logs", out="forkcast: the model has no signature\n")
    assert container_note(failed(), COMPOSE) == "forkcast-server-1: the model has no signature; restarted 3 time(s)"


def test_lost_workers_are_counted_in_a_note(engine: FakeDocker) -> None:
    """The note of a ready replica that lost workers has their number and the reason of the last one."""
    line = "[2026-01-02] [7] [ERROR] worker {} was killed: out of memory at {}; the model needs about 200M\n"
    engine.answer("logs", out=line.format(8, "256M") + "[INFO] Booting worker\n" + line.format(9, "128M"))
    assert container_note(Container.parse(container(restarts=1)), COMPOSE) == (
        "forkcast-server-1 lost 2 worker(s) recently: killed: out of memory at 128M; the model needs about 200M"
    )
