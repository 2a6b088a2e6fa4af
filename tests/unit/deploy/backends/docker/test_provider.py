"""The one-shot service that brings a model. The `docker` command is a stand-in."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.backends.docker import provider
from deploy.backends.docker.engine import Compose
from deploy.errors import CommandError
from tests.support.fake_docker import FakeDocker

COMPOSE = Compose({"TAG": "v1"})
ONCE = ["run", "--rm", "--no-TTY", "--no-deps", "model"]
RECORD = {"digest": "0123456789abcdef" * 4, "version": "3", "needs": 7}


def ran(docker: FakeDocker) -> list[list[str]]:
    """What was asked of Compose."""
    return [call.arguments[5:] for call in docker.calls]


@pytest.fixture(autouse=True)
def service(docker: FakeDocker) -> None:
    """A service that works, in a volume with a current copy."""
    docker.answer("compose", "run")
    docker.answer("compose", "run", "cat", out=RECORD)


def test_provided_model_is_identified_by_digest_and_version(docker: FakeDocker) -> None:
    """A model that was brought is told from another by its digest and its version."""
    assert provider.provide(COMPOSE) == "0123456789ab-3"
    assert ran(docker)[0] == ONCE
    assert docker.calls[0].environ["TAG"] == "v1"
    for changes in ({"digest": "f" * 64}, {"version": "4"}):
        docker.answer("compose", "run", "cat", out=RECORD | changes)
        assert provider.provide(COMPOSE) != "0123456789ab-3"


def test_failed_provider_raises_without_reading_current(docker: FakeDocker, capfd: pytest.CaptureFixture[str]) -> None:
    """Where there is none, the service says why where the user sees it, and the current one is not looked at."""
    docker.answer("compose", "run", err="error: there is no such model\n", status=1)
    with pytest.raises(CommandError, match=r"^there is no model to serve; nothing was changed$"):
        provider.provide(COMPOSE)
    assert capfd.readouterr().err == "error: there is no such model\n"
    assert ran(docker) == [ONCE]


def test_undo_runs_in_the_service_and_reports_failure(docker: FakeDocker) -> None:
    """The service itself takes its last change back; that it could not is an error."""
    provider.undo(COMPOSE)
    assert ran(docker) == [[*ONCE, "python", "-m", "deploy.models.provide", "--undo"]]
    docker.answer("compose", "run", err="error: disk full\n", status=1)
    with pytest.raises(CommandError, match=r"disk full$"):
        provider.undo(COMPOSE)


def test_train_runs_in_the_service_and_reports_failure(docker: FakeDocker) -> None:
    """The service trains, in words where it cannot."""
    provider.train(COMPOSE)
    assert ran(docker) == [[*ONCE, "python", "-m", "deploy.models.training.train"]]
    docker.answer("compose", "run", status=1)
    with pytest.raises(CommandError, match=r"^no model was trained$"):
        provider.train(COMPOSE)


def test_step_returns_what_the_program_printed(docker: FakeDocker) -> None:
    """Another program of the service reads a text and gives back what it printed."""
    docker.answer("compose", "run", "deploy.models.other", out="printed\n")
    assert provider.run_program(COMPOSE, "deploy.models.other", "--loud", "7", text="{}") == "printed\n"
    assert ran(docker) == [[*ONCE, "python", "-m", "deploy.models.other", "--loud", "7"]]


@pytest.mark.parametrize(
    ("err", "told"),
    [
        ("Container made\nerror: the registry: error: 7\n", "the registry: error: 7"),
        ("no space left\n", "docker compose --env-file: no space left"),
        ("", "docker compose --env-file: status 3"),
    ],
)
def test_failed_step_reports_the_reason_of_the_program(docker: FakeDocker, err: str, told: str) -> None:
    """Its own reason is told without what was said around it; else the engine's."""
    docker.answer("compose", "run", err=err, status=3)
    with pytest.raises(CommandError) as caught:
        provider.run_program(COMPOSE, "deploy.models.other")
    assert str(caught.value) == told


def test_identity_joins_digest_and_version() -> None:
    """One model is told from another by its files and by its version."""
    assert provider.model_id(RECORD["digest"], "3") == provider.provide(COMPOSE) == "0123456789ab-3"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("printed", "status", "found"),
    [(RECORD, 0, RECORD), ({}, 0, {}), ("not json", 0, {}), ("", 0, {}), ("", 1, {})]
    + [(other, 0, {}) for other in ([1], "7", "null", '"text"')],
)
def test_current_model_is_empty_without_valid_record(
    docker: FakeDocker, printed: object, status: int, found: dict[str, Any]
) -> None:
    """The record in the volume is read; where there is none, or none that is a record, it is empty."""
    docker.answer("compose", "run", "cat", out=printed, status=status)
    assert provider.current_record(COMPOSE) == found
    assert ran(docker) == [[*ONCE, "cat", "/var/lib/forkcast/models/current.json"]]
