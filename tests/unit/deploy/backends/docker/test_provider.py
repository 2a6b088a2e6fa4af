"""Tests of the one-shot service that provides a model, with a fake `docker` command."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.backends.docker import provider
from deploy.backends.docker.engine import Compose
from deploy.errors import CommandError
from tests.support.fake_docker import FakeDocker

COMPOSE = Compose({"TAG": "v1"})
RUN_MODEL = ["run", "--rm", "--no-TTY", "--no-deps", "model"]
RECORD = {"digest": "0123456789abcdef" * 4, "version": "3", "needs": 7}


def compose_calls(docker: FakeDocker) -> list[list[str]]:
    """Return the arguments of each call of Compose."""
    return [call.arguments[5:] for call in docker.calls]


@pytest.fixture(autouse=True)
def service(docker: FakeDocker) -> None:
    """A service that succeeds, in a volume with a current copy."""
    docker.answer("compose", "run")
    docker.answer("compose", "run", "cat", out=RECORD)


def test_provided_model_is_identified_by_digest_and_version(docker: FakeDocker) -> None:
    """The id of a provided model changes with its digest and with its version."""
    assert provider.provide(COMPOSE) == "0123456789ab-3"
    assert compose_calls(docker)[0] == RUN_MODEL
    assert docker.calls[0].environ["TAG"] == "v1"
    for changes in ({"digest": "f" * 64}, {"version": "4"}):
        docker.answer("compose", "run", "cat", out=RECORD | changes)
        assert provider.provide(COMPOSE) != "0123456789ab-3"


def test_failed_provider_raises_without_reading_current(docker: FakeDocker, capfd: pytest.CaptureFixture[str]) -> None:
    """If no model is available, the service's error is raised, what it printed before is shown, and nothing is read."""
    docker.answer("compose", "run", err="a warning\nerror: there is no such model\n", status=1)
    with pytest.raises(CommandError, match=r"^there is no such model$"):
        provider.provide(COMPOSE)
    assert capfd.readouterr().err == "a warning\n"
    assert compose_calls(docker) == [RUN_MODEL]


def test_undo_runs_in_the_service_and_reports_failure(docker: FakeDocker) -> None:
    """The service restores the previous model, and a failure of that is an error."""
    provider.undo(COMPOSE)
    assert compose_calls(docker) == [[*RUN_MODEL, "python", "-m", "deploy.models.provide", "--undo"]]
    docker.answer("compose", "run", err="error: disk full\n", status=1)
    with pytest.raises(CommandError, match=r"disk full$"):
        provider.undo(COMPOSE)


def test_train_runs_in_the_service_and_reports_failure(docker: FakeDocker) -> None:
    """The service trains a model, and a failed training is an error."""
    provider.train(COMPOSE)
    assert compose_calls(docker) == [[*RUN_MODEL, "python", "-m", "deploy.models.training.train"]]
    docker.answer("compose", "run", err="error: the disk is full\n", status=1)
    with pytest.raises(CommandError, match=r"^the disk is full$"):
        provider.train(COMPOSE)


def test_program_that_fails_without_an_error_line_is_reported_with_its_status(
    docker: FakeDocker, capfd: pytest.CaptureFixture[str]
) -> None:
    """If the program printed no error, all that it printed is shown, and the error has the exit status."""
    docker.answer("compose", "run", err="Killed\n", status=137)
    with pytest.raises(CommandError, match=r"^docker compose run ended with status 137$"):
        provider.train(COMPOSE)
    assert capfd.readouterr().err == "Killed\n"


def test_program_output_is_returned(docker: FakeDocker) -> None:
    """A program of the service gets a text on standard input, and its output is returned."""
    docker.answer("compose", "run", "deploy.models.other", out="printed\n")
    assert provider.run_program(COMPOSE, "deploy.models.other", "--loud", "7", text="{}") == "printed\n"
    assert compose_calls(docker) == [[*RUN_MODEL, "python", "-m", "deploy.models.other", "--loud", "7"]]


@pytest.mark.parametrize(
    ("err", "error"),
    [
        ("Container made\nerror: the registry: error: 7\n", "the registry: error: 7"),
        ("no space left\n", "docker compose --env-file: no space left"),
        ("", "docker compose --env-file: status 3"),
    ],
)
def test_failed_program_is_reported_with_its_reason(docker: FakeDocker, err: str, error: str) -> None:
    """The error of a failed program is its own reason, or else the last line of Docker."""
    docker.answer("compose", "run", err=err, status=3)
    with pytest.raises(CommandError) as caught:
        provider.run_program(COMPOSE, "deploy.models.other")
    assert str(caught.value) == error


def test_model_id_joins_digest_and_version() -> None:
    """The id of a model consists of the start of its digest and its version."""
    assert provider.model_id(RECORD["digest"], "3") == provider.provide(COMPOSE) == "0123456789ab-3"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("printed", "status", "record"),
    [(RECORD, 0, RECORD), ({}, 0, {}), ("not json", 0, {}), ("", 0, {}), ("", 1, {})]
    + [(text, 0, {}) for text in ([1], "7", "null", '"text"')],
)
def test_current_model_is_empty_without_valid_record(
    docker: FakeDocker, printed: object, status: int, record: dict[str, Any]
) -> None:
    """The record in the volume is read; without a valid record the result is empty."""
    docker.answer("compose", "run", "cat", out=printed, status=status)
    assert provider.current_record(COMPOSE) == record
    assert compose_calls(docker) == [[*RUN_MODEL, "cat", "/var/lib/forkcast/models/current.json"]]
