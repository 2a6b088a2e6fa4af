"""Tests of the program of MLflow's server: its settings, and how it starts beside other programs."""

from __future__ import annotations

import json

import pytest

from deploy.backends.local import registry
from deploy.backends.local.supervisord import Program
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from tests.support.fake_supervisord import FakeSupervisord

FULL = Stack(full=True, mlflow_port=5001)
STORE = {
    "S3_ENDPOINT_URL": "http://store:9000", "S3_BUCKET": "models", "S3_ACCESS_KEY_ID": "id",
    "S3_SECRET_ACCESS_KEY": "hidden-key",
}  # fmt: skip
DATABASE = {"DATABASE_URL": "postgresql://user:hidden-word@host/mlflow"}


@pytest.fixture
def supervisord(layout: Layout) -> FakeSupervisord:
    """A supervisord that runs one replica."""
    fake = FakeSupervisord(layout)
    fake.start({})
    fake.write([Program("replica-1", ["sleep", "600"], {}, 5)])
    fake.add(*fake.config_changes()[0])
    fake.events.clear()
    return fake


def settings(layout: Layout) -> dict[str, str]:
    """Return the settings that the server reads."""
    document: dict[str, str] = json.loads((layout.run / "mlflow.json").read_text())
    return document


def test_stack_without_registry_has_no_program(layout: Layout) -> None:
    """A stack without a registry has no program for it and writes no settings."""
    assert registry.programs(Stack(), layout) == []
    assert not (layout.run / "mlflow.json").exists()


def test_program_listens_on_the_loopback_address(layout: Layout) -> None:
    """The server listens on 127.0.0.1 at the stack's port, and reads its stores from a file."""
    (program,) = registry.programs(FULL, layout)
    assert program.name == "mlflow"
    assert program.command[1:] == ["-m", "deploy.models.registry.tracking_server"]
    environment = dict(program.environment)
    assert len(environment.pop("CONFIG_DIGEST")) == 64
    assert environment == {
        "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": "5001",
        "SETTINGS_FILE": str(layout.run / "mlflow.json"),
    }  # fmt: skip


@pytest.mark.parametrize("chosen", [{}, DATABASE, STORE, DATABASE | STORE])
def test_user_provided_stores_replace_the_defaults(layout: Layout, chosen: dict[str, str]) -> None:
    """Without a database or an object store of the user, the server uses a SQLite file and a folder of the stack."""
    registry.programs(Stack(full=True, registry=chosen), layout)
    own = {} if "DATABASE_URL" in chosen else {"DATABASE_URL": f"sqlite:///{layout.var}/mlflow.db"}
    own |= {} if "S3_BUCKET" in chosen else {"ARTIFACTS": str(layout.var / "mlartifacts")}
    assert settings(layout) == chosen | own


def test_secrets_are_in_a_file_of_this_user(layout: Layout) -> None:
    """Passwords are in a file that only this user can read, and not in the program's file."""
    (program,) = registry.programs(Stack(full=True, registry=DATABASE | STORE), layout)
    assert (layout.run / "mlflow.json").stat().st_mode & 0o777 == 0o600
    assert "hidden" not in program.render()


def test_changed_settings_change_the_program(layout: Layout) -> None:
    """Another database changes the program's file, so that supervisord restarts it."""
    texts = {registry.programs(Stack(full=True, registry=chosen), layout)[0].render() for chosen in ({}, {}, DATABASE)}
    assert len(texts) == 2


def test_new_registry_leaves_running_programs_alone(layout: Layout, supervisord: FakeSupervisord) -> None:
    """MLflow is added, and the running programs are neither stopped nor removed."""
    registry.start(supervisord, FULL, layout)
    assert supervisord.events == ["add mlflow"]
    assert supervisord.names() == ["mlflow", "replica-1"]
    assert supervisord.config_changes() == ([], [], [])


def test_running_registry_is_left_alone(layout: Layout, supervisord: FakeSupervisord) -> None:
    """An MLflow that runs with the same settings is not touched."""
    registry.start(supervisord, FULL, layout)
    registry.start(supervisord, FULL, layout)
    assert supervisord.events == ["add mlflow"]


def test_changed_registry_is_replaced(layout: Layout, supervisord: FakeSupervisord) -> None:
    """An MLflow that runs with other settings is replaced."""
    registry.start(supervisord, FULL, layout)
    registry.start(supervisord, Stack(full=True, mlflow_port=5001, registry=DATABASE), layout)
    assert supervisord.events == ["add mlflow", "remove mlflow", "add mlflow"]


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL"])
def test_ended_registry_is_started_again(layout: Layout, supervisord: FakeSupervisord, state: str) -> None:
    """An MLflow that was stopped, or that supervisord gave up, is started again."""
    registry.start(supervisord, FULL, layout)
    supervisord.end("mlflow", state)
    registry.start(supervisord, FULL, layout)
    assert supervisord.events == ["add mlflow", "start mlflow"]


def test_registry_leaves_outdated_replicas_to_up(layout: Layout, supervisord: FakeSupervisord) -> None:
    """The file of a replica does not change, so that `make up` still sees that it runs other code."""
    text = (layout.programs / "replica-1.conf").read_text()
    registry.start(supervisord, FULL, layout)
    assert (layout.programs / "replica-1.conf").read_text() == text
