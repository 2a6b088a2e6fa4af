"""Tests of the options of commands, and of every list that has to agree with the tables of variables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from deploy.errors import CommandError
from deploy.help import settings, verbs
from deploy.options import (
    COMPOSE_VARIABLES,
    VARIABLES,
    BenchOptions,
    ModelOptions,
    Options,
    RegistryOptions,
    mask_password,
    read_environment,
)
from deploy.stack.paths import ROOT
from deploy.variable_types import Amount, Variable
from deploy.variables import INTERNAL_VARIABLES, LAB_VARIABLES, REPLICA_VARIABLES
from server.errors import SettingsError
from server.settings import Settings
from tests.support.refusals import refusal

NAMES = {name for variable in VARIABLES for name in (variable.name, *variable.aliases)}


def test_unset_and_empty_variables_leave_the_defaults() -> None:
    """A variable that is unset or empty leaves the default of its field; the names of empty ones are stored."""
    empty = Options.read(dict.fromkeys(NAMES, ""))
    default = Options.read({})
    names = [
        attribute.name
        for attribute in fields(Options)
        if attribute.name not in ("persistent", "set_but_empty", "environment")
    ]
    assert all(getattr(empty, name) == getattr(default, name) for name in names)
    assert [name for name in names if getattr(default, name)] == ["backend", "var_dir", "env_file", "service"]
    assert default.set_but_empty == frozenset()
    assert empty.set_but_empty >= NAMES


def test_values_have_their_types() -> None:
    """Numbers, switches, lists, paths and amounts are parsed; an amount also keeps its text."""
    read = Options.read({
        "N": "3", "HTTP_PORT": "8080", "FORCE": "1", "EXTRAS": "onnx  parquet", "TLS_CERT": "tls/cert.pem",
        "COVERTYPE_PATH": "~/rows.csv", "SERVER_CPUS": "0.5", "MEMORY": "1.5g",
    })  # fmt: skip
    assert (read.replicas, read.http_port, read.force, read.extras) == (3, 8080, True, ("onnx", "parquet"))
    assert (read.tls_cert, read.covertype_path) == (ROOT / "tls/cert.pem", Path.home() / "rows.csv")
    assert read.cpus == Amount("SERVER_CPUS", "0.5", 0.5)
    assert read.memory == Amount("MEMORY", "1.5g", 3 << 29)


def test_name_of_a_variable_overrides_its_alias() -> None:
    """CPUS overrides its alias SERVER_CPUS, which is read if CPUS is unset or empty."""
    assert Options.read({"CPUS": "2", "SERVER_CPUS": "1"}).cpus == Amount("CPUS", "2", 2)
    assert Options.read({"CPUS": "", "SERVER_CPUS": "1"}).cpus == Amount("SERVER_CPUS", "1", 1)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("N", "17", "a whole number from 1 to 16"),
        ("N", "²", "a whole number from 1 to 16"),
        ("HTTP_PORT", "80.0", "a whole number from 1 to 65535"),
        ("CLIENT_REQUESTS", "-1", "a whole number from 1 to 1000000"),
        ("LOCUST_WORKERS", "65", "a whole number from 1 to 64"),
        ("BACKEND", "kubernetes", "one of auto, docker, local"),
        ("FOREST", "huge", "one of default, large"),
        ("EXTRAS", "torch", "a list of onnx, parquet"),
        ("YES", "yes", "0 or 1"),
        ("CPUS", "0", "a number of CPUs, such as 0.5"),
        ("SERVER_CPUS", "1e3", "a number of CPUs, such as 0.5"),
        ("MEMORY", "lots", "a size, such as 512M or 1.5G"),
        ("TLS_KEY", "a\nb", "printable characters"),
        ("TAG", "a\nb", "printable characters"),
        ("HTTP_HOST", "\udcff", "printable characters"),
        ("DATA", "~nobody-of-that-name/x", "a path; the user named after ~ does not exist"),
    ],
)
def test_invalid_value_is_named_with_its_variable(name: str, text: str, expected: str) -> None:
    """The error for an invalid value names the variable, its value and what was expected."""
    assert refusal(lambda: Options.read({name: text})) == f"{name}={text!r}: expected {expected}"


def test_settings_of_replicas_are_checked_as_by_a_replica() -> None:
    """An invalid setting of replicas is refused with the error of a replica."""
    with pytest.raises(SettingsError, match=r"^MAX_PENDING='many': expected a whole number"):
        Options.read({"MAX_PENDING": "many"})


def test_read_leniently_skips_invalid_values(tmp_path: Path) -> None:
    """read_leniently skips invalid values, but not those of variables that locate the stack."""
    variables = {"VAR_DIR": str(tmp_path), "HTTP_PORT": "http", "KEEP_ALIVE": "abc", "YES": "yes", "LOCUST_PORT": "81"}
    read = Options.read_leniently(variables)
    assert (read.var_dir, read.http_port, read.persistent, read.confirmed, read.locust_port) == (
        tmp_path,
        None,
        {},
        False,
        81,
    )
    with pytest.raises(CommandError, match=r"^BACKEND='x'"):
        Options.read_leniently({"BACKEND": "x"})


def test_mask_password_hides_only_passwords() -> None:
    """mask_password replaces a password in an address and leaves other addresses unchanged."""
    assert mask_password("http://user:secret@host:5000/x") == "http://user:***@host:5000/x"
    for uri in ("http://host:5000", "sqlite:////srv/mlflow.db", "http://user@host"):
        assert mask_password(uri) == uri


def test_repr_of_options_contains_no_secret() -> None:
    """The repr of options contains neither a key nor the environment."""
    texts = {"API_KEY": "a-very-secret-key", "DATABASE_URL": "mysql://a:a-very-secret-word@b/c"}
    for text in (repr(Options.read(texts)), repr(RegistryOptions.read(texts)), repr(ModelOptions.read(texts))):
        assert "secret" not in text


def test_with_texts_returns_changed_copy() -> None:
    """The variables for child processes are read-only, and with_texts returns a copy that has more."""
    read = Options.read({"S3_BUCKET": "b"})
    with pytest.raises(TypeError):
        read.environment["S3_BUCKET"] = "c"  # type: ignore[index]
    more = read.with_texts({"DATABASE_PASSWORD": "p"})
    assert more.texts(("S3_BUCKET", "S3_REGION", "DATABASE_PASSWORD")) == {"S3_BUCKET": "b", "DATABASE_PASSWORD": "p"}
    assert read.texts(("DATABASE_PASSWORD",)) == {}


def test_environment_overrides_the_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the process overrides the file, and an empty value in the file counts as not set."""
    file = tmp_path / "settings"
    file.write_text("N=2\nHTTP_PORT=81\nLOCUST_PORT=\n")
    for name, value in {"ENV_FILE": str(file), "N": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCUST_PORT", raising=False)
    read = read_environment()
    assert (read["N"], read["HTTP_PORT"], "LOCUST_PORT" in read) == ("3", "81", False)
    file.write_bytes(b"N=\xff\n")
    assert refusal(read_environment) == f"{file} is not UTF-8"


def test_names_of_variables_are_unique() -> None:
    """No variable is in the tables twice, and users cannot set the internal variables of Compose."""
    names = [variable.name for variable in VARIABLES]
    assert len(names) == len(set(names))
    assert set(INTERNAL_VARIABLES).isdisjoint(names)
    assert set(INTERNAL_VARIABLES) < set(COMPOSE_VARIABLES)


@pytest.mark.parametrize("variable", REPLICA_VARIABLES, ids=lambda variable: variable.name)
def test_table_of_replica_settings_agrees_with_the_server(variable: Variable) -> None:
    """The defaults and ranges in the table of replica settings are those of server/settings.py."""
    attributes = {"WEB_CONCURRENCY": "workers"}
    value = getattr(Settings.from_env({}), attributes.get(variable.name, variable.name.lower()))
    if variable.name not in ("WEB_CONCURRENCY", "MODEL_NAME"):  # Their defaults depend on the machine and the model.
        assert variable.default.strip("`") == str(value)
    for invalid in ("no/such/value", " 0", "99999999999" * 10):
        with pytest.raises(ValueError) as expected:  # noqa: PT011  (the text is compared)
            variable.type.parse(invalid)
        assert refusal(lambda: Settings.from_env({variable.name: invalid}), SettingsError) == (  # noqa: B023
            f"{variable.name}={invalid!r}: expected {expected.value}"
        )


def test_table_of_lab_variables_agrees_with_the_lab() -> None:
    """The lab reads every variable of its table, and the tables have every variable that the lab reads."""
    texts = [path.read_text() for path in (ROOT / "deploy/scaling").rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'environ(?:\.get\(|\[|, )"([A-Z_0-9]+)"', text)}
    assert read <= {*NAMES, "DOCKER_HOST"}
    assert {variable.name for variable in LAB_VARIABLES} <= {
        name for text in texts for name in re.findall(r'"([A-Z_0-9]+)"', text)
    }


def test_settings_page_is_up_to_date() -> None:
    """docs/settings.md is the page that `python -m deploy.help settings` prints."""
    assert (ROOT / "docs/settings.md").read_text() == settings()


def test_help_lists_every_verb_and_only_known_variables() -> None:
    """`make help` lists every phony target of the Makefile and names only variables of the tables."""
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = [usage.split()[1] for usage, _ in verbs()]
    assert sorted(listed) == sorted(" ".join(phony).split())
    used = {name for usage, _ in verbs() for name in re.findall(r"\b([A-Z][A-Z0-9_]*)=", usage)}
    assert used <= NAMES | {"PYTEST"}
    assert all(text.endswith(".") for _, text in verbs())


def swarm_variables() -> set[str]:
    return {
        name
        for path in (ROOT / "deploy/swarm").glob("*.yml")
        for name in re.findall(r"\$\{([A-Z0-9_]+)", path.read_text())
    }


def test_swarm_files_use_known_variables() -> None:
    """The Swarm files use variables of the tables and a few that only Swarm has."""
    swarm_only = {
        "API_KEYS_SECRET",
        "TLS_SECRETS",
        "REGISTRY_TOKEN_SECRET",
        "UPDATE_DELAY",
        "UPDATE_MONITOR",
        "SERVER_RESERVED",
    }
    assert swarm_variables() <= NAMES | swarm_only | {"STOP_GRACE_PERIOD"}
    assert swarm_only <= swarm_variables()


@pytest.mark.parametrize("service", ["server", "nginx", "locust"])
def test_swarm_services_receive_the_variables_of_compose(service: str) -> None:
    """A Swarm service receives only variables that the same service receives from Compose."""
    received: set[str] = set()
    for path in (ROOT / "deploy/swarm").glob("*.yml"):
        received |= set((yaml.safe_load(path.read_text())["services"].get(service) or {}).get("environment", {}))
    # In a swarm a replica downloads its model itself, which the service `model` does with Compose.
    services = {service, "model"} if service == "server" else {service}
    assert received & NAMES <= {variable.name for variable in VARIABLES if services & set(variable.services)}


def test_kubernetes_config_maps_set_known_variables() -> None:
    """ConfigMaps set variables of the tables and two that only the images on Kubernetes read."""
    image_only = {"SERVICE", "CLUSTER_DOMAIN"}
    literals = [
        literal
        for path in (ROOT / "deploy/kubernetes").rglob("kustomization.yaml")
        for generator in yaml.safe_load(path.read_text()).get("configMapGenerator", [])
        for literal in generator.get("literals", [])
    ]
    assert literals
    assert {literal.partition("=")[0] for literal in literals} <= NAMES | image_only


@pytest.mark.parametrize("read", [Options.read, BenchOptions.read, RegistryOptions.read, ModelOptions.read])
def test_read_does_not_change_its_argument(read: Callable[[dict[str, str]], object]) -> None:
    """Reading options changes neither the given variables nor the environment."""
    variables = {"MODEL_URI": "my/model", "DATA": "rows.csv", "PORT": "5001"}
    original = dict(variables)
    read(variables)
    assert variables == original
    assert "MODEL_URI" not in os.environ
