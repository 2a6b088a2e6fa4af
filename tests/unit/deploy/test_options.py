"""The options of a command: every variable with its type, read once, and the lists that are made from the table."""

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

NAMES = {name for one in VARIABLES for name in (one.name, *one.aliases)}


def test_unset_and_empty_variables_are_none() -> None:
    """A variable that is not set, or empty, leaves the default of its field; that it was empty is known."""
    empty = Options.read(dict.fromkeys(NAMES, ""))
    default = Options.read({})
    read = [one.name for one in fields(Options) if one.name not in ("persistent", "set_but_empty", "environment")]
    assert all(getattr(empty, name) == getattr(default, name) for name in read)
    assert [name for name in read if getattr(default, name)] == ["backend", "var_dir", "env_file", "service"]
    assert default.set_but_empty == frozenset()
    assert empty.set_but_empty >= NAMES


def test_values_have_their_types() -> None:
    """Numbers, switches, lists, paths and amounts are read once; a size keeps its text for Docker."""
    read = Options.read({
        "N": "3", "HTTP_PORT": "8080", "FORCE": "1", "EXTRAS": "onnx  parquet", "TLS_CERT": "tls/cert.pem",
        "COVERTYPE_PATH": "~/rows.csv", "SERVER_CPUS": "0.5", "MEMORY": "1.5g",
    })  # fmt: skip
    assert (read.replicas, read.http_port, read.force, read.extras) == (3, 8080, True, ("onnx", "parquet"))
    assert (read.tls_cert, read.covertype_path) == (ROOT / "tls/cert.pem", Path.home() / "rows.csv")
    assert read.cpus == Amount("SERVER_CPUS", "0.5", 0.5)
    assert read.memory == Amount("MEMORY", "1.5g", 3 << 29)


def test_first_name_of_a_variable_counts() -> None:
    """CPUS counts before SERVER_CPUS, which Compose reads by itself."""
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
        ("DATA", "~nobody-of-that-name/x", "a path; there is no such user, whose home that would be"),
    ],
)
def test_bad_value_is_named_with_its_variable(name: str, text: str, expected: str) -> None:
    """A value that cannot be is one line: the variable, its value, and what was expected."""
    assert refusal(lambda: Options.read({name: text})) == f"{name}={text!r}: expected {expected}"


def test_settings_of_replicas_are_checked_by_their_own_reader() -> None:
    """A replica's setting is refused in the words in which a replica would refuse it."""
    with pytest.raises(SettingsError, match=r"^MAX_PENDING='many': expected a whole number"):
        Options.read({"MAX_PENDING": "many"})


def test_lenient_reading_leaves_out_what_is_wrong(tmp_path: Path) -> None:
    """What looks at a stack or stops it reads where it is, and of other settings those that can be."""
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


def test_passwords_in_addresses_are_masked() -> None:
    """A message that names an address does not repeat the password in it."""
    assert mask_password("http://user:secret@host:5000/x") == "http://user:***@host:5000/x"
    for uri in ("http://host:5000", "sqlite:////srv/mlflow.db", "http://user@host"):
        assert mask_password(uri) == uri


def test_secrets_are_not_shown() -> None:
    """The text of options holds neither a key nor the environment."""
    texts = {"API_KEY": "a-very-secret-key", "DATABASE_URL": "mysql://a:a-very-secret-word@b/c"}
    for shown in (repr(Options.read(texts)), repr(RegistryOptions.read(texts)), repr(ModelOptions.read(texts))):
        assert "secret" not in shown


def test_options_cannot_be_changed() -> None:
    """The variables for child processes are those that were read, and more of them are other options."""
    read = Options.read({"S3_BUCKET": "b"})
    with pytest.raises(TypeError):
        read.environment["S3_BUCKET"] = "c"  # type: ignore[index]
    more = read.with_texts({"DATABASE_PASSWORD": "p"})
    assert more.texts(("S3_BUCKET", "S3_REGION", "DATABASE_PASSWORD")) == {"S3_BUCKET": "b", "DATABASE_PASSWORD": "p"}
    assert read.texts(("DATABASE_PASSWORD",)) == {}


def test_file_of_settings_gives_way_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the process count before those of the file, an empty line of which counts as none."""
    file = tmp_path / "settings"
    file.write_text("N=2\nHTTP_PORT=81\nLOCUST_PORT=\n")
    for name, value in {"ENV_FILE": str(file), "N": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCUST_PORT", raising=False)
    read = read_environment()
    assert (read["N"], read["HTTP_PORT"], "LOCUST_PORT" in read) == ("3", "81", False)
    file.write_bytes(b"N=\xff\n")
    assert refusal(read_environment) == f"{file} is not UTF-8"


def test_names_are_told_apart() -> None:
    """No variable is in the table twice, and what verbs fill in for Compose alone is no variable of users."""
    names = [one.name for one in VARIABLES]
    assert len(names) == len(set(names))
    assert set(INTERNAL_VARIABLES).isdisjoint(names)
    assert set(INTERNAL_VARIABLES) < set(COMPOSE_VARIABLES)


@pytest.mark.parametrize("one", REPLICA_VARIABLES, ids=lambda one: one.name)
def test_table_of_replicas_settings_is_that_of_their_reader(one: Variable) -> None:
    """The default and the range that documentation names are those of server/settings.py."""
    settings_of = {"WEB_CONCURRENCY": "workers"}
    read = getattr(Settings.from_env({}), settings_of.get(one.name, one.name.lower()))
    if one.name != "WEB_CONCURRENCY":
        assert one.default.strip("`") == str(read)
    for bad in ("", "no such value", "0", "99999999999"):
        if not bad:
            continue
        with pytest.raises(ValueError) as expected:  # noqa: PT011  (the text is compared)
            one.type.parse(bad)
        assert refusal(lambda: Settings.from_env({one.name: bad}), SettingsError) == (  # noqa: B023
            f"{one.name}={bad!r}: expected {expected.value}"
        )


def test_table_of_the_lab_is_what_its_reader_takes() -> None:
    """Every variable of the lab is read by it, and documentation knows all that it reads."""
    texts = [path.read_text() for path in (ROOT / "deploy/scaling").rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'environ(?:\.get\(|\[|, )"([A-Z_0-9]+)"', text)}
    assert read <= {*NAMES, "DOCKER_HOST"}
    assert {one.name for one in LAB_VARIABLES} <= {
        name for text in texts for name in re.findall(r'"([A-Z_0-9]+)"', text)
    }


def test_page_of_settings_is_the_table() -> None:
    """docs/settings.md is what the table says now."""
    assert (ROOT / "docs/settings.md").read_text() == settings()


def test_help_lists_every_verb_and_known_variables_alone() -> None:
    """`make help` has every target that people call, and names no variable that nobody reads."""
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


def test_swarm_uses_the_names_of_the_table() -> None:
    """The files for Swarm ask for variables of the table, and for those that they alone have."""
    own = {
        "API_KEYS_SECRET",
        "TLS_SECRETS",
        "REGISTRY_TOKEN_SECRET",
        "UPDATE_DELAY",
        "UPDATE_MONITOR",
        "SERVER_RESERVED",
    }
    assert swarm_variables() <= NAMES | own | {"STOP_GRACE_PERIOD"}
    assert own <= swarm_variables()


@pytest.mark.parametrize("service", ["server", "nginx", "locust"])
def test_swarm_hands_on_what_the_table_says(service: str) -> None:
    """A service of Swarm is handed no variable of the table that the same service of Compose is not."""
    handed: set[str] = set()
    for path in (ROOT / "deploy/swarm").glob("*.yml"):
        handed |= set((yaml.safe_load(path.read_text())["services"].get(service) or {}).get("environment", {}))
    # In a swarm a replica finds its model by itself, as the service `model` does in Compose.
    services = {service, "model"} if service == "server" else {service}
    assert handed & NAMES <= {one.name for one in VARIABLES if services & set(one.services)}


def test_kubernetes_hands_on_variables_of_the_table() -> None:
    """What ConfigMaps set is a variable of the table, or one of the image's own."""
    own = {"SERVICE", "CLUSTER_DOMAIN"}
    literals = [
        literal
        for path in (ROOT / "deploy/kubernetes").rglob("kustomization.yaml")
        for one in yaml.safe_load(path.read_text()).get("configMapGenerator", [])
        for literal in one.get("literals", [])
    ]
    assert literals
    assert {literal.partition("=")[0] for literal in literals} <= NAMES | own


@pytest.mark.parametrize("read", [Options.read, BenchOptions.read, RegistryOptions.read, ModelOptions.read])
def test_reading_leaves_the_environment_alone(read: Callable[[dict[str, str]], object]) -> None:
    """What is read is not changed."""
    variables = {"MODEL_URI": "my/model", "DATA": "rows.csv", "PORT": "5001"}
    kept = dict(variables)
    read(variables)
    assert variables == kept
    assert "MODEL_URI" not in os.environ
