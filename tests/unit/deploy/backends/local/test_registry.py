"""MLflow's program: what its server works on, and how it is started beside other programs."""

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
    """One that runs a replica."""
    fake = FakeSupervisord(layout)
    fake.start({})
    fake.write([Program("replica-1", ["sleep", "600"], {}, 5)])
    fake.add(*fake.config_changes()[0])
    fake.events.clear()
    return fake


def settings(layout: Layout) -> dict[str, str]:
    """What the server reads."""
    read: dict[str, str] = json.loads((layout.run / "mlflow.json").read_text())
    return read


def test_stack_without_registry_has_no_program(layout: Layout) -> None:
    """A plain stack runs no MLflow, and writes no settings for one."""
    assert registry.programs(Stack(), layout) == []
    assert not (layout.run / "mlflow.json").exists()


def test_program_listens_on_this_machine_alone(layout: Layout) -> None:
    """The server listens on 127.0.0.1 at the stack's port, and is told by a file what to work on."""
    (program,) = registry.programs(FULL, layout)
    assert program.name == "mlflow"
    assert program.command[1:] == ["-m", "deploy.models.registry.tracking_server"]
    environment = dict(program.environment)
    assert len(environment.pop("CONFIG_DIGEST")) == 64
    assert environment == {
        "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": "5001",
        "SETTINGS_FILE": str(layout.run / "mlflow.json"),
    }  # fmt: skip


@pytest.mark.parametrize("named", [{}, DATABASE, STORE, DATABASE | STORE])
def test_what_the_user_names_replaces_the_own(layout: Layout, named: dict[str, str]) -> None:
    """Without a database or a store of the user's, the server works on a SQLite file and a folder of the stack."""
    registry.programs(Stack(full=True, registry=named), layout)
    own = {} if "DATABASE_URL" in named else {"DATABASE_URL": f"sqlite:///{layout.var}/mlflow.db"}
    own |= {} if "S3_BUCKET" in named else {"ARTIFACTS": str(layout.var / "mlartifacts")}
    assert settings(layout) == named | own


def test_secrets_are_in_a_file_of_this_user(layout: Layout) -> None:
    """Passwords are in a file that nobody else may read, and not in the program."""
    (program,) = registry.programs(Stack(full=True, registry=DATABASE | STORE), layout)
    assert (layout.run / "mlflow.json").stat().st_mode & 0o777 == 0o600
    assert "hidden" not in program.render()


def test_changed_settings_change_the_program(layout: Layout) -> None:
    """Another database makes another program, which is how supervisord knows that it has to start it anew."""
    texts = {registry.programs(Stack(full=True, registry=named), layout)[0].render() for named in ({}, {}, DATABASE)}
    assert len(texts) == 2


def test_new_registry_starts_beside_what_runs(layout: Layout, supervisord: FakeSupervisord) -> None:
    """MLflow is added; the programs that run are neither stopped nor forgotten."""
    registry.start(supervisord, FULL, layout)
    assert supervisord.events == ["add mlflow"]
    assert supervisord.names() == ["mlflow", "replica-1"]
    assert supervisord.config_changes() == ([], [], [])


def test_running_registry_is_left_alone(layout: Layout, supervisord: FakeSupervisord) -> None:
    """An MLflow that runs with these settings goes on."""
    registry.start(supervisord, FULL, layout)
    registry.start(supervisord, FULL, layout)
    assert supervisord.events == ["add mlflow"]


def test_changed_registry_is_replaced(layout: Layout, supervisord: FakeSupervisord) -> None:
    """An MLflow that runs with other settings is stopped, and started with these."""
    registry.start(supervisord, FULL, layout)
    registry.start(supervisord, Stack(full=True, mlflow_port=5001, registry=DATABASE), layout)
    assert supervisord.events == ["add mlflow", "remove mlflow", "add mlflow"]


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL"])
def test_ended_registry_is_started_again(layout: Layout, supervisord: FakeSupervisord, state: str) -> None:
    """An MLflow that was stopped, or given up, is started again."""
    registry.start(supervisord, FULL, layout)
    supervisord.end("mlflow", state)
    registry.start(supervisord, FULL, layout)
    assert supervisord.events == ["add mlflow", "start mlflow"]


def test_registry_leaves_outdated_replicas_to_up(layout: Layout, supervisord: FakeSupervisord) -> None:
    """The file of a replica is as it was: that it runs other code than the checkout's is still known afterwards."""
    before = (layout.programs / "replica-1.conf").read_text()
    registry.start(supervisord, FULL, layout)
    assert (layout.programs / "replica-1.conf").read_text() == before
