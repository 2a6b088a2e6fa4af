"""Which registry a stack has: its own, or its parts of somebody else's."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.backends.docker import topology
from deploy.backends.docker.engine import Compose
from deploy.backends.docker.registry import variables, with_secrets
from deploy.backends.docker.topology import DEFAULT
from deploy.errors import CommandError
from deploy.stack import registry_services
from deploy.stack.paths import Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack
from tests.support.fake_docker import FakeDocker, config
from tests.support.options import options

ADDRESS = "http://127.0.0.1:{port}"
STORE = {"S3_ENDPOINT_URL": "http://s3", "S3_BUCKET": "b", "S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "s"}
FULL = registry_services.with_registry(Stack(), options(), ADDRESS, full=True)


def test_plain_stack_has_none() -> None:
    """A stack that nobody asked a registry for has no service of one, needs no secret, and is not changed."""
    stack = Stack(environment={"MLFLOW_TRACKING_URI": "http://elsewhere"})
    assert registry_services.with_registry(stack, options(DATABASE_URL="mysql://a@b/c"), ADDRESS, full=False) == stack
    assert registry_services.own_services(stack) == ()
    assert registry_services.secret_names(stack) == ()
    assert "DATABASE_PASSWORD" not in variables(stack, options(**{"DATABASE_PASSWORD": "p"}))


def test_full_stack_has_three_registry_services() -> None:
    """A stack with a registry has all three services, asks its own MLflow, and stays so."""
    assert registry_services.own_services(FULL) == ("database", "object-store", "mlflow")
    assert FULL.environment["MLFLOW_TRACKING_URI"] == registry_services.mlflow_address(FULL) == "http://127.0.0.1:5000"
    assert registry_services.with_registry(FULL, options(), ADDRESS, full=False) == FULL
    moved = registry_services.with_registry(FULL, options(MLFLOW_PORT="5001"), ADDRESS, full=False)
    assert (
        moved.environment["MLFLOW_TRACKING_URI"] == registry_services.mlflow_address(moved) == "http://127.0.0.1:5001"
    )


@pytest.mark.parametrize(
    ("named", "services", "secret"),
    [
        (
            {"DATABASE_URL": "mysql://a:p@b/c"},
            ("object-store", "mlflow"),
            registry_services.SECRET_VARIABLES["object-store"],
        ),
        (STORE, ("database", "mlflow"), ("DATABASE_PASSWORD",)),
        ({"DATABASE_URL": "mysql://a:p@b/c", **STORE}, ("mlflow",), ()),
    ],
)
def test_what_the_user_names_is_not_started(
    named: dict[str, str], services: tuple[str, ...], secret: tuple[str, ...]
) -> None:
    """A database or a store that the user names takes the place of the stack's own, also in later commands."""
    stack = registry_services.with_registry(Stack(), options(**named), ADDRESS, full=True)
    assert registry_services.own_services(stack) == services
    assert registry_services.secret_names(stack) == secret
    assert stack.registry == named
    assert registry_services.with_registry(stack, options(), ADDRESS, full=False) == stack
    chosen = variables(stack, options())
    assert named.items() <= chosen.items()
    assert topology.variables(replace(DEFAULT, full=True, registry=named))["COMPOSE_PROFILES"] == ",".join(services)


def test_keys_of_the_own_store_are_no_other_store() -> None:
    """The keys in the file of settings are the own store's, as long as no address names another."""
    made = {"S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "s", "DATABASE_PASSWORD": "p"}
    stack = registry_services.with_registry(Stack(), options(**made), ADDRESS, full=True)
    assert stack == FULL
    assert made.items() <= variables(stack, options(**made)).items()


@pytest.mark.parametrize("left_out", ["S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"])
def test_incomplete_store_settings_are_refused(left_out: str) -> None:
    """A store without a bucket or a key is refused with the name of what is missing."""
    named = {name: value for name, value in STORE.items() if name != left_out}
    with pytest.raises(CommandError, match=f"^{left_out} is missing: "):
        registry_services.with_registry(Stack(), options(**named), ADDRESS, full=True)


@pytest.mark.parametrize("stack", [Stack(), FULL])
def test_another_registry_is_refused(stack: Stack) -> None:
    """Another registry and the stack's own one are not both to be had; its own address may be named."""
    own = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    assert registry_services.with_registry(stack, options(**own), ADDRESS, full=True) == FULL
    with pytest.raises(CommandError, match=r"^MLFLOW_TRACKING_URI='http://other' names another registry"):
        registry_services.with_registry(stack, options(MLFLOW_TRACKING_URI="http://other"), ADDRESS, full=True)


def test_replicas_are_told_no_secret() -> None:
    """What opens the database and the store is in no environment of a replica, and not among its settings."""
    named = {"DATABASE_URL": "mysql://a:secret@b/c", **STORE}
    stack = registry_services.with_registry(Stack(), options(**named), ADDRESS, full=True)
    assert set(stack.environment) == {"MLFLOW_TRACKING_URI"}
    assert {*named, "DATABASE_PASSWORD"} <= registry_services.SERVER_ONLY_VARIABLES


def test_record_is_for_this_user_alone(tmp_path: Path) -> None:
    """What the user has named is remembered where nobody else may read it."""
    layout = Layout(tmp_path / "var")
    layout.make()
    stack = registry_services.with_registry(Stack(), options(DATABASE_URL="mysql://a:secret@b/c"), ADDRESS, full=True)
    Record(stack).save(layout)
    assert stat.S_IMODE(layout.state.stat().st_mode) == 0o600
    assert Record.load(layout) == Record(stack)
    layout.state.write_text(json.dumps({"registry": "x"}))
    with pytest.raises(CommandError, match="is damaged"):
        Record.load(layout)


@pytest.fixture
def engine(docker: FakeDocker) -> FakeDocker:
    """One that has no volumes yet."""
    docker.answer("compose", "config", out=config())
    docker.answer("volume", "ls")
    return docker


@pytest.mark.usefixtures("engine")
def test_secrets_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full stack's secrets are made, and told by their names alone; those that are there are used."""
    asked = options(ENV_FILE=str(tmp_path / "settings"))
    made = with_secrets(Compose({}), FULL, asked)
    names = {"DATABASE_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"}
    assert set(made.texts(names)) == names
    told = capsys.readouterr().out
    assert told.startswith("made DATABASE_PASSWORD, ")
    assert made.environment["DATABASE_PASSWORD"] not in told
    assert with_secrets(Compose({}), FULL, made) is made
    assert with_secrets(Compose({}), FULL, asked).environment == made.environment
    assert with_secrets(Compose({}), Stack(), asked) is asked
    with pytest.raises(CommandError, match=r"^secrets cannot be kept in .*: "):
        with_secrets(Compose({}), FULL, options(ENV_FILE=str(tmp_path / "none/settings")))


def test_lost_database_password_is_reported(engine: FakeDocker, tmp_path: Path) -> None:
    """A database that was made with a password is not asked with a new one: where the old one is gone, that is told."""
    engine.answer("volume", "ls", out="forkcast_database\n")
    with pytest.raises(
        CommandError, match=r"DATABASE_PASSWORD is not in .*, and the volume forkcast_database was made"
    ):
        with_secrets(Compose({}), FULL, options(ENV_FILE=str(tmp_path / "settings")))
    assert not (tmp_path / "settings").exists()
