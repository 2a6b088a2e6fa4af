"""Tests of the wanted state of a stack and of the paths of its files."""

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
    layout = Layout(tmp_path / "var")
    layout.make()
    return layout


def test_unset_and_empty_options_change_nothing() -> None:
    """Unset and empty options leave a stack unchanged."""
    stack = Stack(replicas=3, http_host="::", http_port=8080, environment={"ENGINE": "sklearn"})
    assert stack.changed(options()) == stack
    assert stack.changed(options(N="", HTTP_HOST="", HTTP_PORT="", LOCUST_PORT="", ENGINE="")) == stack


def test_requested_values_override_earlier_values() -> None:
    """Each option of a command overrides the earlier value, and the other values stay."""
    earlier = Stack(cpus=1, environment={"ENGINE": "sklearn", "KEEP_ALIVE": "90"})
    requested = {"N": "3", "HTTP_HOST": "0.0.0.0", "HTTP_PORT": "81", "LOCUST_PORT": "82", "ENGINE": "pyfunc"}  # noqa: S104
    environment = {"ENGINE": "pyfunc", "KEEP_ALIVE": "90"}
    assert earlier.changed(options(**requested)) == Stack(3, "0.0.0.0", 81, 82, 1, environment)  # noqa: S104
    assert earlier.environment["ENGINE"] == "sklearn"


def test_only_persistent_variables_are_kept() -> None:
    """The stack keeps neither other variables of the user's shell nor those that a backend sets itself."""
    requested = {"PATH": "/bin", "PORT": "1", "SOCKET": "x", "VAR_DIR": "y", "REPLICA": "z", "MAX_PENDING": "7"}
    assert Stack().changed(options(**requested)).environment == {"MAX_PENDING": "7"}
    assert not {"HOST", "PORT", "SOCKET", "VAR_DIR", "REPLICA"} & {
        variable.name for variable in VARIABLES if variable.persistent
    }


def test_smallest_and_largest_values_are_accepted() -> None:
    """The smallest and the largest numbers of replicas and ports are accepted."""
    for replicas, port in ((1, 1), (SLOTS, 65535)):
        stack = Stack().changed(options(N=str(replicas), HTTP_PORT=str(port), LOCUST_PORT=str(port)))
        assert (stack.replicas, stack.http_port, stack.locust_port) == (replicas, port, port)


def test_invalid_replica_setting_is_refused() -> None:
    """An invalid setting of replicas is refused before a replica starts with it."""
    with pytest.raises(SettingsError, match=r"^WEB_CONCURRENCY='many': expected a whole number"):
        Stack().changed(options(WEB_CONCURRENCY="many"))


@pytest.mark.parametrize(
    ("requested", "stored"),
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
def test_relative_paths_start_at_the_checkout(name: str, requested: str, stored: str) -> None:
    """A relative path or SQLite file becomes absolute from the checkout; other URIs are stored unchanged."""
    stack = Stack().changed(options(**{name: requested}))
    assert stack.environment[name] == stored
    assert stack.changed(options()).environment[name] == stored


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
def test_address_is_reachable_and_omits_port_80(host: str, port: int, address: str) -> None:
    """The address for clients has a reachable host, IPv6 in brackets, and no port if it is 80."""
    assert Stack(http_host=host, http_port=port).address == address


def test_settings_are_those_of_a_replica(layout: Layout) -> None:
    """The settings of a replica are those of the stack, with the stack's folder."""
    settings = Stack(environment={"MAX_BODY_BYTES": "99"}).settings(layout)
    assert (settings.max_body_bytes, settings.var_dir) == (99, layout.var)


@pytest.mark.parametrize(("backend", "maximum"), [("local", SLOTS), ("docker", 16)])
def test_each_backend_limits_its_replicas(backend: str, maximum: int) -> None:
    """Each backend has its own largest number of replicas."""
    assert MAX_REPLICAS[backend] == maximum
    assert Stack(backend=backend).changed(options(N=str(maximum))).replicas == maximum
    with pytest.raises(CommandError, match=f"^N='{maximum + 1}': expected a whole number from 1 to {maximum}$"):
        Stack(backend=backend).changed(options(N=str(maximum + 1)))


def test_change_keeps_backend_and_limits() -> None:
    """A change keeps the backend and the CPU and memory limits of replicas."""
    stack = Stack(backend="docker", cpus=0.5, memory="512M").changed(options(N="3", BACKEND="local", MEMORY="1G"))
    assert (stack.replicas, stack.backend, stack.cpus, stack.memory) == (3, "docker", 0.5, "512M")


def test_images_and_limits_of_locust_are_kept() -> None:
    """Published images and the limits of Locust are kept in later commands."""
    requested = {"IMAGE": "registry.example.com/forkcast", "TAG": "v1", "LOCUST_CPUS": "2", "LOCUST_MEMORY": "2G"}
    stack = Stack(backend="docker").changed(options(**requested))
    assert stack.changed(options()).environment == requested


def test_locust_keeps_the_requested_workers() -> None:
    """Locust has one worker by default, and keeps the number that was once requested."""
    assert Stack().locust_workers == Stack().changed(options(LOCUST_WORKERS="")).locust_workers == 1
    assert Stack().changed(options(LOCUST_WORKERS="4")).changed(options()).locust_workers == 4


def test_layout_is_made_under_var_alone(layout: Layout) -> None:
    """Every folder of a stack is created in ``var``, also if it exists already."""
    layout.make()
    assert all(folder.is_dir() for folder in (layout.logs, layout.run, layout.programs))
    assert [path.name for path in layout.var.parent.iterdir()] == ["var"]
    assert layout.log("nginx") == layout.logs / "nginx.log"
    assert layout.state.parent == layout.var


def test_socket_paths_are_relative() -> None:
    """The path of a replica's socket is relative, so that its length does not depend on the checkout."""
    assert [replica_socket(slot) for slot in (1, SLOTS)] == ["run/1.sock", f"run/{SLOTS}.sock"]
    assert replica_name(SLOTS) == f"replica-{SLOTS}"


@pytest.mark.parametrize("name", ["API_KEYS_FILE", "TLS_CERT", "TLS_KEY", "CLIENT_REQUESTS", "CLIENT_CONNECTIONS"])
def test_empty_value_does_not_remove_protection(name: str) -> None:
    """An empty value for protection in use is refused, and one for unused protection is ignored."""
    protected = Stack(
        environment={"API_KEYS_FILE": "/keys"}, tls_cert="/crt", tls_key="/key", client_requests=1, client_connections=1
    )
    with pytest.raises(CommandError, match=f"{name} is empty, but the running stack uses it: "):
        protected.changed(options(**{name: ""}))
    assert Stack().changed(options(**{name: ""})) == Stack()


@pytest.mark.parametrize("extras", ["onnx", "parquet", "onnx parquet", "parquet  onnx"])
def test_extras_are_kept_in_any_order(extras: str) -> None:
    """The optional packages of the images can be listed in any order."""
    assert Stack().changed(options(EXTRAS=extras)).environment["EXTRAS"] == extras


@pytest.mark.parametrize(
    ("previous_host", "host", "new"),
    [
        ("127.0.0.1", "127.0.0.2", ["HTTP_PORT"]),
        ("127.0.0.1", "0.0.0.0", []),  # noqa: S104
        ("0.0.0.0", "127.0.0.1", []),  # noqa: S104
        ("127.0.0.1", "127.0.0.1", []),
    ],
)
def test_port_is_new_at_another_address(previous_host: str, host: str, new: list[str]) -> None:
    """An unchanged port is new at another address, unless one of the two addresses is a wildcard."""
    stack = Stack(http_host=previous_host, http_port=8080)
    assert list(replace(stack, http_host=host).new_ports(stack)) == new
    assert set(stack.new_ports(None)) == {"HTTP_PORT", "LOCUST_PORT"}
