"""Why a container is not well, in words."""

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
    """An engine that killed nobody, with a model that needs 200 MiB."""
    docker.start_engine()
    docker.answer("logs")
    docker.answer("events")
    docker.answer("compose", "run", "cat", out={"name": "covertype", "needs": 200 * M})
    return docker


def failed(**changes: Any) -> Container:
    return Container.parse(container(**{"Status": "restarting", "restarts": 3, "memory": 128 * M, **changes}))


@pytest.mark.parametrize(
    ("log", "told"),
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
def test_reason_in_its_own_words(engine: FakeDocker, log: str, told: str) -> None:
    """The last line of ours is the reason, else the last of any."""
    engine.answer("logs", out=log)
    assert reason(failed(memory=256 * M), COMPOSE) == told


def test_only_a_replica_needs_what_the_model_needs() -> None:
    """Another service that is killed for its memory is told without the model's need."""
    one = Container.parse(container("prometheus", Status="exited", OOMKilled=True, memory=512 * M))
    assert reason(one, COMPOSE) == "killed: out of memory at 512M"


def test_killed_before_it_could_say_a_word() -> None:
    """A replica that printed nothing, with less memory than the model needs, counts as killed for that."""
    assert reason(failed(), COMPOSE) == "killed: out of memory at 128M; the model needs about 200M"


@pytest.mark.parametrize("how", ["flag", "event", "warning"])
def test_reason_is_memory(engine: FakeDocker, how: str) -> None:
    """A kill for memory is told by the engine's flag, by its events, or by the replica's own warning before it."""
    if how == "event":
        engine.answer("events", out=OOM_EVENT)
    if how == "warning":
        engine.answer("logs", out="WARNING memory is limited to 128M, and the model needs about 200M: ..\n")
    told = reason(failed(OOMKilled=how == "flag"), COMPOSE)
    assert told == "killed: out of memory at 128M; the model needs about 200M"


def test_reason_after_the_warning(engine: FakeDocker) -> None:
    """A replica that warned of its memory, and printed something after that, ended for what it printed."""
    warning = "WARNING memory is limited to 128M, and the model needs about 200M: expect to be killed\n"
    engine.answer("logs", out=f"{warning}forkcast: the model has no signature\n")
    assert reason(failed(), COMPOSE) == "the model has no signature"
    engine.answer("logs", out=f"{warning}OSError: no space\n")
    assert reason(failed(), COMPOSE) == "OSError: no space"


def test_events_are_this_containers(engine: FakeDocker) -> None:
    """The engine is asked for what happened to this container, up to now, and does not wait for more."""
    one = failed()
    reason(one, COMPOSE)
    (asked,) = engine.ran("events")
    assert {f"container={one.id}", "event=oom", "--until", "0s"} < set(asked)


@pytest.mark.parametrize(
    ("memory", "record", "told"),
    [
        (0, {"needs": 200 * M}, "killed: out of memory; the model needs about 200M"),
        (128 * M, {"needs": None}, "killed: out of memory at 128M"),
        (0, {}, "killed: out of memory"),
        (128 * M, [200 * M], "killed: out of memory at 128M"),
        (128 * M, 200 * M, "killed: out of memory at 128M"),
        (128 * M, "no such file", "killed: out of memory at 128M"),
    ],
)
def test_oom_reason_omits_unknown_figures(engine: FakeDocker, memory: int, record: object, told: str) -> None:
    """A limit or a need that is not known is left out."""
    engine.answer("compose", "run", "cat", out=record)
    assert reason(failed(OOMKilled=True, memory=memory), COMPOSE) == told


def test_healthy_container_has_no_note() -> None:
    """There is nothing to say of a container that is well, or on its way."""
    for one in (container(), container(Health={"Status": "starting"}), container("nginx")):
        assert container_note(Container.parse(one), COMPOSE) is None


def test_failed_container_note_counts_restarts(engine: FakeDocker) -> None:
    """A container that failed is named, with the reason and how often it was started again."""
    engine.answer("logs", out="forkcast: the model has no signature\n")
    assert container_note(failed(), COMPOSE) == "forkcast-server-1: the model has no signature; restarted 3 time(s)"


def test_note_of_lost_workers(engine: FakeDocker) -> None:
    """A replica that answers, and lost workers for their memory, is noted with how many, and the last one's words."""
    line = "[2026-01-02] [7] [ERROR] worker {} was killed: out of memory at {}; the model needs about 200M\n"
    engine.answer("logs", out=line.format(8, "256M") + "[INFO] Booting worker\n" + line.format(9, "128M"))
    assert container_note(Container.parse(container(restarts=1)), COMPOSE) == (
        "forkcast-server-1 lost 2 worker(s) recently: killed: out of memory at 128M; the model needs about 200M"
    )
