"""Tests of the registry of a stack: its own services, and external ones in place of them."""

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
EXTERNAL_STORE = {
    "S3_ENDPOINT_URL": "http://s3",
    "S3_BUCKET": "b",
    "S3_ACCESS_KEY_ID": "k",
    "S3_SECRET_ACCESS_KEY": "s",
}
FULL = registry_services.with_registry(Stack(), options(), ADDRESS, full=True)


def test_plain_stack_has_no_registry_services() -> None:
    """A stack that is not full has no registry service, needs no secret and is not changed."""
    stack = Stack(environment={"MLFLOW_TRACKING_URI": "http://elsewhere"})
    assert registry_services.with_registry(stack, options(DATABASE_URL="mysql://a@b/c"), ADDRESS, full=False) == stack
    assert registry_services.own_services(stack) == ()
    assert registry_services.secret_names(stack) == ()
    assert "DATABASE_PASSWORD" not in variables(stack, options(**{"DATABASE_PASSWORD": "p"}))


def test_full_stack_has_three_registry_services() -> None:
    """A full stack has three registry services, uses its own MLflow, and stays full in later commands."""
    assert registry_services.own_services(FULL) == ("database", "object-store", "mlflow")
    assert FULL.environment["MLFLOW_TRACKING_URI"] == registry_services.mlflow_address(FULL) == "http://127.0.0.1:5000"
    assert registry_services.with_registry(FULL, options(), ADDRESS, full=False) == FULL
    moved = registry_services.with_registry(FULL, options(MLFLOW_PORT="5001"), ADDRESS, full=False)
    assert (
        moved.environment["MLFLOW_TRACKING_URI"] == registry_services.mlflow_address(moved) == "http://127.0.0.1:5001"
    )


@pytest.mark.parametrize(
    ("external", "services", "secrets"),
    [
        (
            {"DATABASE_URL": "mysql://a:p@b/c"},
            ("object-store", "mlflow"),
            registry_services.SECRET_VARIABLES["object-store"],
        ),
        (EXTERNAL_STORE, ("database", "mlflow"), ("DATABASE_PASSWORD",)),
        ({"DATABASE_URL": "mysql://a:p@b/c", **EXTERNAL_STORE}, ("mlflow",), ()),
    ],
)
def test_external_services_replace_own_services(
    external: dict[str, str], services: tuple[str, ...], secrets: tuple[str, ...]
) -> None:
    """An external database or store replaces the stack's own, also in later commands."""
    stack = registry_services.with_registry(Stack(), options(**external), ADDRESS, full=True)
    assert registry_services.own_services(stack) == services
    assert registry_services.secret_names(stack) == secrets
    assert stack.registry == external
    assert registry_services.with_registry(stack, options(), ADDRESS, full=False) == stack
    chosen = variables(stack, options())
    assert external.items() <= chosen.items()
    assert topology.variables(replace(DEFAULT, full=True, registry=external))["COMPOSE_PROFILES"] == ",".join(services)


def test_keys_without_endpoint_belong_to_the_own_store() -> None:
    """Access keys without S3_ENDPOINT_URL are those of the stack's own object store."""
    secrets = {"S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "s", "DATABASE_PASSWORD": "p"}
    stack = registry_services.with_registry(Stack(), options(**secrets), ADDRESS, full=True)
    assert stack == FULL
    assert secrets.items() <= variables(stack, options(**secrets)).items()


@pytest.mark.parametrize("left_out", ["S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"])
def test_external_store_without_bucket_or_key_is_refused(left_out: str) -> None:
    """An external store without bucket or access key is refused with the missing variable."""
    external = {name: value for name, value in EXTERNAL_STORE.items() if name != left_out}
    with pytest.raises(CommandError, match=f"^{left_out} is missing: "):
        registry_services.with_registry(Stack(), options(**external), ADDRESS, full=True)


@pytest.mark.parametrize("stack", [Stack(), FULL])
def test_another_registry_is_refused(stack: Stack) -> None:
    """A full stack refuses the address of another registry and accepts that of its own."""
    own = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    assert registry_services.with_registry(stack, options(**own), ADDRESS, full=True) == FULL
    with pytest.raises(CommandError, match=r"^MLFLOW_TRACKING_URI='http://other' names another registry"):
        registry_services.with_registry(stack, options(MLFLOW_TRACKING_URI="http://other"), ADDRESS, full=True)


def test_replicas_receive_no_secret() -> None:
    """The secrets of database and store are not in the environment of replicas."""
    external = {"DATABASE_URL": "mysql://a:secret@b/c", **EXTERNAL_STORE}
    stack = registry_services.with_registry(Stack(), options(**external), ADDRESS, full=True)
    assert set(stack.environment) == {"MLFLOW_TRACKING_URI"}
    assert {*external, "DATABASE_PASSWORD"} <= registry_services.SERVER_ONLY_VARIABLES


def test_record_with_secrets_is_private(tmp_path: Path) -> None:
    """The record, which may contain the URL of a database, can only be read by this user."""
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
    """A fake Docker engine without volumes."""
    docker.answer("compose", "config", out=config())
    docker.answer("volume", "ls")
    return docker


@pytest.mark.usefixtures("engine")
def test_secrets_are_generated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The secrets of a full stack are generated once, and only their names are printed."""
    settings = options(ENV_FILE=str(tmp_path / "settings"))
    with_generated = with_secrets(Compose({}), FULL, settings)
    names = {"DATABASE_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"}
    assert set(with_generated.texts(names)) == names
    output = capsys.readouterr().out
    assert output.startswith("generated DATABASE_PASSWORD, ")
    assert with_generated.environment["DATABASE_PASSWORD"] not in output
    assert with_secrets(Compose({}), FULL, with_generated) is with_generated
    assert with_secrets(Compose({}), FULL, settings).environment == with_generated.environment
    assert with_secrets(Compose({}), Stack(), settings) is settings
    with pytest.raises(CommandError, match=r"^cannot write secrets to .*: "):
        with_secrets(Compose({}), FULL, options(ENV_FILE=str(tmp_path / "none/settings")))


def test_lost_database_password_is_reported(engine: FakeDocker, tmp_path: Path) -> None:
    """If the password of an existing database is lost, no new one is generated and the error says so."""
    engine.answer("volume", "ls", out="forkcast_database\n")
    with pytest.raises(
        CommandError, match=r"DATABASE_PASSWORD is not in .*, but the volume forkcast_database was created"
    ):
        with_secrets(Compose({}), FULL, options(ENV_FILE=str(tmp_path / "settings")))
    assert not (tmp_path / "settings").exists()
