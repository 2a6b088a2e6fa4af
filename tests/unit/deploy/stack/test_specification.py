"""What a stack is asked to be, and where its files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.backends.local.slots import SLOTS, replica_name, replica_socket
from deploy.errors import CommandError
from deploy.options import MAX_REPLICAS, VARIABLES
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.errors import SettingsError
from tests.support.options import options


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    one = Layout(tmp_path / "var")
    one.make()
    return one


def test_nothing_asked_changes_nothing() -> None:
    """Unset and empty variables leave a stack as it is."""
    stack = Stack(replicas=3, http_host="::", http_port=8080, environment={"ENGINE": "sklearn"})
    assert stack.changed(options()) == stack
    assert stack.changed(options(N="", HTTP_HOST="", HTTP_PORT="", LOCUST_PORT="", ENGINE="")) == stack


def test_requested_values_override_earlier_values() -> None:
    """What is asked for now goes over what was asked for before, one by one."""
    before = Stack(cpus=1, environment={"ENGINE": "sklearn", "KEEP_ALIVE": "90"})
    asked = {"N": "3", "HTTP_HOST": "0.0.0.0", "HTTP_PORT": "81", "LOCUST_PORT": "82", "ENGINE": "pyfunc"}  # noqa: S104
    environment = {"ENGINE": "pyfunc", "KEEP_ALIVE": "90"}
    assert before.changed(options(**asked)) == Stack(3, "0.0.0.0", 81, 82, 1, environment)  # noqa: S104
    assert before.environment["ENGINE"] == "sklearn"


def test_only_the_replicas_settings_are_kept() -> None:
    """Other variables of the user's shell, and those that the backend sets itself, do not travel."""
    asked = {"PATH": "/bin", "PORT": "1", "SOCKET": "x", "VAR_DIR": "y", "REPLICA": "z", "MAX_PENDING": "7"}
    assert Stack().changed(options(**asked)).environment == {"MAX_PENDING": "7"}
    assert not {"HOST", "PORT", "SOCKET", "VAR_DIR", "REPLICA"} & {one.name for one in VARIABLES if one.persistent}


def test_limits_themselves_are_good() -> None:
    """The least and the most are within the limits."""
    for n, port in ((1, 1), (SLOTS, 65535)):
        stack = Stack().changed(options(N=str(n), HTTP_PORT=str(port), LOCUST_PORT=str(port)))
        assert (stack.replicas, stack.http_port, stack.locust_port) == (n, port, port)


def test_bad_setting_is_refused_before_a_replica_reads_it() -> None:
    """A replica's own setting is checked when it is asked for."""
    with pytest.raises(SettingsError, match=r"^WEB_CONCURRENCY='many': expected a whole number"):
        Stack().changed(options(WEB_CONCURRENCY="many"))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("my/model", f"{ROOT}/my/model"),
        ("/my/model", "/my/model"),
        ("models:/covertype@champion", "models:/covertype@champion"),
        ("runs:/0a/model", "runs:/0a/model"),
        ("s3://bucket/model", "s3://bucket/model"),
        ("sqlite:///my/mlflow.db", f"sqlite:///{ROOT}/my/mlflow.db"),
        ("sqlite:////my/mlflow.db", "sqlite:////my/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
@pytest.mark.parametrize("name", ["MODEL_URI", "MLFLOW_TRACKING_URI"])
def test_relative_places_are_seen_from_the_checkout(name: str, asked: str, kept: str) -> None:
    """A relative path or database is anchored where `make` runs, once; everything else stays as it was given."""
    stack = Stack().changed(options(**{name: asked}))
    assert stack.environment[name] == kept
    assert stack.changed(options()).environment[name] == kept


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("127.0.0.1", 8080, "http://127.0.0.1:8080"),
        ("127.0.0.1", 80, "http://127.0.0.1"),
        ("0.0.0.0", 8080, "http://127.0.0.1:8080"),  # noqa: S104
        ("::", 8080, "http://[::1]:8080"),
        ("::1", 80, "http://[::1]"),
        ("fe80::1", 8080, "http://[fe80::1]:8080"),
        ("localhost", 80, "http://localhost"),
    ],
)
def test_client_address_is_reachable_and_omits_port_80(host: str, port: int, address: str) -> None:
    """A client's address names a host that can be reached, with IPv6 in brackets and no port where it is 80."""
    assert Stack(http_host=host, http_port=port).address == address


def test_settings_are_those_of_a_replica(layout: Layout) -> None:
    """The settings are made of what the stack was asked for, in its own folder."""
    settings = Stack(environment={"MAX_BODY_BYTES": "99"}).settings(layout)
    assert (settings.max_body_bytes, settings.var_dir) == (99, layout.var)


@pytest.mark.parametrize(("backend", "most"), [("local", SLOTS), ("docker", 16)])
def test_each_backend_limits_its_replicas(backend: str, most: int) -> None:
    """Each backend has a most of its own."""
    assert MAX_REPLICAS[backend] == most
    assert Stack(backend=backend).changed(options(N=str(most))).replicas == most
    with pytest.raises(CommandError, match=f"^N='{most + 1}': expected a whole number from 1 to {most}$"):
        Stack(backend=backend).changed(options(N=str(most + 1)))


def test_change_keeps_backend_and_limits() -> None:
    """What is asked for changes neither the backend nor what each replica is held to."""
    stack = Stack(backend="docker", cpus=0.5, memory="512M").changed(options(N="3", BACKEND="local", MEMORY="1G"))
    assert (stack.replicas, stack.backend, stack.cpus, stack.memory) == (3, "docker", 0.5, "512M")


def test_images_and_limits_of_locust_are_kept() -> None:
    """Published images, once chosen, stay chosen, and so do the limits of the load generator."""
    asked = {"IMAGE": "registry.example.com/forkcast", "TAG": "v1", "LOCUST_CPUS": "2", "LOCUST_MEMORY": "2G"}
    stack = Stack(backend="docker").changed(options(**asked))
    assert stack.changed(options()).environment == asked


def test_locust_keeps_the_requested_workers() -> None:
    """Locust has one worker unless it is told otherwise, and as many as a stack was once asked for."""
    assert Stack().locust_workers == Stack().changed(options(LOCUST_WORKERS="")).locust_workers == 1
    assert Stack().changed(options(LOCUST_WORKERS="4")).changed(options()).locust_workers == 4


def test_stacks_whose_replicas_are_alike() -> None:
    """Replicas are started anew for another setting or limit, and not for another number or address."""
    stack = Stack(cpus=1, memory="1G", environment={"ENGINE": "sklearn"})
    assert stack.runs_as(replace(stack, replicas=3, http_host="::", http_port=81, locust_port=82))
    for other in (replace(stack, cpus=2), replace(stack, memory="2G"), replace(stack, environment={})):
        assert not stack.runs_as(other)


def test_layout_is_made_under_var_alone(layout: Layout) -> None:
    """Every folder of a stack is under its ``var``, and making them again does no harm."""
    layout.make()
    assert all(folder.is_dir() for folder in (layout.logs, layout.run, layout.programs))
    assert [path.name for path in layout.var.parent.iterdir()] == ["var"]
    assert layout.log("nginx") == layout.logs / "nginx.log"
    assert layout.state.parent == layout.var


def test_sockets_are_short() -> None:
    """The path of a replica's socket does not depend on where the checkout is."""
    assert [replica_socket(slot) for slot in (1, SLOTS)] == ["run/1.sock", f"run/{SLOTS}.sock"]
    assert replica_name(SLOTS) == f"replica-{SLOTS}"


@pytest.mark.parametrize("name", ["API_KEYS_FILE", "TLS_CERT", "TLS_KEY", "CLIENT_REQUESTS", "CLIENT_CONNECTIONS"])
def test_lock_is_not_opened_by_an_empty_value(name: str) -> None:
    """A lock that is on is taken off by `make down` alone, and an empty value of one that is off is none."""
    locked = Stack(
        environment={"API_KEYS_FILE": "/keys"}, tls_cert="/crt", tls_key="/key", client_requests=1, client_connections=1
    )
    with pytest.raises(CommandError, match=f"{name} is empty, and the stack has it: make down"):
        locked.changed(options(**{name: ""}))
    assert Stack().changed(options(**{name: ""})) == Stack()


@pytest.mark.parametrize("extras", ["onnx", "parquet", "onnx parquet", "parquet  onnx"])
def test_extras_are_a_list(extras: str) -> None:
    """The packages that images have besides are named one by one, in any order."""
    assert Stack().changed(options(EXTRAS=extras)).environment["EXTRAS"] == extras


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("127.0.0.1", "127.0.0.2", ["HTTP_PORT"]),
        ("127.0.0.1", "0.0.0.0", []),  # noqa: S104
        ("0.0.0.0", "127.0.0.1", []),  # noqa: S104
        ("127.0.0.1", "127.0.0.1", []),
    ],
)
def test_own_port_is_new_at_an_address_apart_from_the_one_before(before: str, after: str, new: list[str]) -> None:
    """A port is checked again where the stack moves to another address, but for one that its own listener covers."""
    stack = Stack(http_host=before, http_port=8080)
    assert list(replace(stack, http_host=after).new_ports(stack)) == new
    assert set(stack.new_ports(None)) == {"HTTP_PORT", "LOCUST_PORT"}
