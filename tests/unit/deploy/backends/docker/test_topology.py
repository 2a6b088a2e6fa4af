"""Tests of the variables of a stack in containers, and of the values that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.backends.docker import topology
from deploy.backends.docker.topology import DEFAULT, check_reachable, training_variables, variables, with_limits
from deploy.errors import CommandError
from deploy.options import MAX_REPLICAS
from deploy.stack.paths import ROOT
from deploy.stack.specification import Stack
from server.errors import SettingsError
from tests.support.fake_docker import FakeDocker
from tests.support.options import options
from tests.support.refusals import refusal


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine with eight CPUs."""
    docker.start_engine()
    return docker


def requested(previous: Stack, environ: dict[str, str]) -> Stack:
    """Return the stack that these variables ask for, as the backend computes it."""
    chosen = options(**environ)
    stack = with_limits(previous.changed(chosen), chosen)
    check_reachable(stack)
    return stack


def refused_stack(environ: dict[str, str], previous: Stack = DEFAULT) -> str:
    """Return why a stack with these variables is refused."""
    return refusal(lambda: requested(previous, environ))


def test_default_stack_is_one_replica_on_port_80() -> None:
    """Without options the stack is one replica with 1 CPU and 1 GiB, on port 80 of all addresses."""
    assert requested(DEFAULT, {}) == DEFAULT
    assert variables(DEFAULT) == {
        "SERVER_CPUS": "1",
        "SERVER_MEMORY": "1G",
        "STOP_GRACE_PERIOD": "45s",
        "HTTP_HOST": "0.0.0.0",  # noqa: S104
        "HTTP_PORT": "80",
        "LOCUST_PORT": "8089",
        "PROMETHEUS_PORT": "9090",
        "GRAFANA_PORT": "3000",
    }


@pytest.mark.parametrize(
    ("full", "monitoring", "profiles"),
    [
        (False, False, None),
        (False, True, "prometheus,nginx-exporter,grafana"),
        (True, False, "database,object-store,mlflow"),
        (True, True, "database,object-store,mlflow,prometheus,nginx-exporter,grafana"),
    ],
)
def test_compose_profiles_list_own_optional_services(*, full: bool, monitoring: bool, profiles: str | None) -> None:
    """The profiles contain exactly the optional services that run in this stack."""
    assert variables(replace(DEFAULT, full=full, monitoring=monitoring)).get("COMPOSE_PROFILES") == profiles


def test_requested_settings_override_earlier_settings() -> None:
    """A new setting replaces the earlier one; the other settings stay."""
    previous = replace(DEFAULT, memory="2G", environment={"ENGINE": "sklearn", "KEEP_ALIVE": "90"})
    stack = requested(
        previous, {"N": "3", "CPUS": "0.5", "HTTP_PORT": "81", "ENGINE": "pyfunc", "MEMORY": "", "CPUS_": "9"}
    )
    environment = {"ENGINE": "pyfunc", "KEEP_ALIVE": "90"}
    assert stack == Stack(3, "0.0.0.0", 81, 8089, 0.5, environment, "2G", "docker")  # noqa: S104


def test_short_limit_names_override_long_names() -> None:
    """CPUS and MEMORY mean the same as SERVER_CPUS and SERVER_MEMORY, and take precedence over them."""
    long = {"SERVER_CPUS": "2", "SERVER_MEMORY": "2G"}
    assert with_limits(DEFAULT, options(**long)) == replace(DEFAULT, cpus=2, memory="2G")
    assert with_limits(DEFAULT, options(**long | {"CPUS": "3", "MEMORY": "3G"})) == replace(
        DEFAULT, cpus=3, memory="3G"
    )
    assert with_limits(DEFAULT, options(**long | {"CPUS": "", "MEMORY": ""})) == replace(DEFAULT, cpus=2, memory="2G")
    assert with_limits(DEFAULT, options()) == DEFAULT


@pytest.mark.parametrize(("value", "cpus", "text"), [("0.01", 0.01, "0.01"), ("0.50", 0.5, "0.5"), ("8", 8, "8")])
def test_cpus_accepts_fractions_up_to_engine_cpus(value: str, cpus: float, text: str) -> None:
    """CPUS may be any fraction up to the number of CPUs of the engine's machine."""
    stack = with_limits(DEFAULT, options(CPUS=value))
    assert stack.cpus == cpus
    assert variables(stack)["SERVER_CPUS"] == text


@pytest.mark.parametrize("name", ["CPUS", "SERVER_CPUS"])
@pytest.mark.parametrize("value", ["0.001", "8.1", "9"])
def test_cpus_that_the_engine_refuses_are_named_with_its_range(name: str, value: str) -> None:
    """The error for a CPU limit that the engine would refuse names the value and the accepted range."""
    expected = "expected a number of CPUs from 0.01 to 8, such as 0.5"
    assert refused_stack({name: value}) == f"{name}={value!r}: {expected}"


@pytest.mark.parametrize("value", ["0", "-1", "+1", "1.", ".5", "1e0", "one", " 1", "0x1", "²", "nan"])
def test_invalid_cpus_are_named_with_expectation(value: str) -> None:
    """The error for a value that is not a number of CPUs names the value and what was expected."""
    assert refused_stack({"CPUS": value}) == f"CPUS={value!r}: expected a number of CPUs, such as 0.5"


@pytest.mark.parametrize(
    ("value", "memory"),
    [
        ("6M", "6M"),
        ("512m", "512M"),
        ("512MB", "512MB"),
        ("1.5G", "1.5G"),
        ("0.5gb", "0.5GB"),
        ("6144k", "6144K"),
        ("6291456", "6291456"),
        ("6291456b", "6291456B"),
    ],
)
def test_memory_accepts_the_sizes_docker_accepts(value: str, memory: str) -> None:
    """MEMORY accepts every size that Docker accepts, from Docker's minimum of 6M."""
    assert variables(with_limits(DEFAULT, options(MEMORY=value)))["SERVER_MEMORY"] == memory


@pytest.mark.parametrize("name", ["MEMORY", "SERVER_MEMORY"])
@pytest.mark.parametrize("value", ["0", "5M", "5.9M", "6143K", "6291455", "512"])
def test_memory_below_the_engine_minimum_is_refused(name: str, value: str) -> None:
    """The error for a memory limit below Docker's minimum names the value and what was expected."""
    assert refused_stack({name: value}) == f"{name}={value!r}: expected a size of at least 6M, such as 512M or 1.5G"


@pytest.mark.parametrize(
    "value", ["-1G", "+1G", "1T", "1 G", "G", "1.G", ".5G", "1e9", "many", "6291456BB", "6MBB", "6BM"]
)
def test_invalid_memory_is_named_with_expectation(value: str) -> None:
    """The error for a value that is not a size names the value and what was expected."""
    assert refused_stack({"MEMORY": value}) == f"MEMORY={value!r}: expected a size, such as 512M or 1.5G"


def test_more_replicas_than_nginx_tries_are_refused() -> None:
    """N may not exceed the number of replicas that Nginx tries for a request."""
    assert refused_stack({"N": "17"}) == "N='17': expected a whole number from 1 to 16"
    assert requested(DEFAULT, {"N": str(MAX_REPLICAS["docker"])}).replicas == 16


def test_invalid_replica_setting_is_refused() -> None:
    """An invalid setting of the server is refused when the stack is computed."""
    with pytest.raises(SettingsError, match=r"^ENGINE='tensorflow': expected one of"):
        requested(DEFAULT, {"ENGINE": "tensorflow"})


def test_settings_reach_compose() -> None:
    """Every setting of a stack becomes a variable, and the grace period exceeds the replica's graceful timeout."""
    settings = {"MODEL_URI": "models:/m/1", "GRACEFUL_TIMEOUT": "60", "IMAGE": "r.example/f", "TAG": "v1"}
    settings |= {"LOCUST_CPUS": "2", "LOCUST_MEMORY": "512M"}
    stack = requested(DEFAULT, settings | {"COMPOSE_PROJECT_NAME": "other", "PATH": "/bin"})
    values = variables(stack)
    assert stack.environment == settings
    assert {name: values[name] for name in settings} == settings
    assert values["STOP_GRACE_PERIOD"] == "75s"
    assert "COMPOSE_PROJECT_NAME" not in values
    assert "PATH" not in values
    assert all(values.values())


@pytest.mark.parametrize("relative", [False, True])
def test_training_data_is_mounted_for_one_command(relative: bool, tmp_path: Path) -> None:
    """A data set is mounted by its absolute path, for one command and not for the stack."""
    path = ROOT / "README.md" if relative else tmp_path / "rows.csv"
    path.touch()
    value = "README.md" if relative else str(path)
    assert training_variables(options(COVERTYPE_PATH=value)) == {"COVERTYPE_PATH": str(path)}
    assert "COVERTYPE_PATH" not in requested(DEFAULT, {"COVERTYPE_PATH": value}).environment


@pytest.mark.parametrize("name", ["no-such.csv", "."])
def test_missing_training_data_is_refused(name: str, tmp_path: Path) -> None:
    """A path that is not a file is refused, since Docker would create a folder with that name."""
    with pytest.raises(CommandError) as caught:
        training_variables(options(COVERTYPE_PATH=str(tmp_path / name)))
    assert str(caught.value) == f"COVERTYPE_PATH={str(tmp_path / name)!r}: there is no such file"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_model_folder_is_mounted_at_its_own_path(form: str, tmp_path: Path) -> None:
    """A model folder of the host is mounted at the same path in the container."""
    (tmp_path / "MLmodel").touch()
    stack = requested(DEFAULT, {"MODEL_URI": form.format(tmp_path)})
    values = variables(stack)
    assert values["MODEL_FOLDER"] == str(tmp_path)
    assert values["MODEL_URI"] == form.format(tmp_path)


@pytest.mark.parametrize("uri", ["models:/covertype@champion", "runs:/0a/model", "s3://bucket/model", ""])
def test_remote_model_mounts_no_host_folder(uri: str) -> None:
    """A model in a registry or a remote store mounts no folder of the host."""
    assert "MODEL_FOLDER" not in variables(requested(DEFAULT, {"MODEL_URI": uri}))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_folder_without_a_model_is_refused(form: str, tmp_path: Path) -> None:
    """A folder without an MLmodel file is refused, also if an earlier stack named it."""
    uri = form.format(tmp_path / "none")
    error = f"MODEL_URI={uri!r}: there is no MLflow model in that folder (no file MLmodel)"
    assert refused_stack({"MODEL_URI": uri}) == error
    assert refused_stack({}, replace(DEFAULT, environment={"MODEL_URI": uri})) == error


def test_stack_with_deleted_model_folder_can_be_stopped(tmp_path: Path) -> None:
    """The variables of a stack can be computed after its model folder was deleted, so that it can be stopped."""
    stack = replace(DEFAULT, environment={"MODEL_URI": str(tmp_path / "none")})
    assert variables(stack)["MODEL_FOLDER"] == str(tmp_path / "none")


def test_file_uri_escapes_are_decoded(tmp_path: Path) -> None:
    """Escapes in a file:// URI are decoded to the path of the folder."""
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "MLmodel").touch()
    uri = folder.as_uri()
    assert uri.endswith("/my%20model")
    assert variables(requested(DEFAULT, {"MODEL_URI": uri}))["MODEL_FOLDER"] == str(folder)


def test_path_with_a_colon_is_refused(tmp_path: Path) -> None:
    """A path that Docker's short mount syntax would split is refused, with its variable."""
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "MLmodel").touch()
    reason = f"{str(folder)!r}: expected an absolute path without a colon, so that a container can mount it"
    assert (
        refused_stack({"MODEL_URI": str(folder)})
        == refused_stack({"MODEL_URI": folder.as_uri()})
        == f"MODEL_URI={reason}"
    )
    with pytest.raises(CommandError) as caught:
        training_variables(options(COVERTYPE_PATH=str(folder / "MLmodel")))
    assert str(caught.value) == (
        f"COVERTYPE_PATH={str(folder / 'MLmodel')!r}: expected an absolute path without a colon, "
        "so that a container can mount it"
    )


def test_training_data_link_is_resolved(tmp_path: Path) -> None:
    """A data set that is a symbolic link is mounted from its target."""
    (tmp_path / "a:b").symlink_to(ROOT / "README.md")
    assert training_variables(options(COVERTYPE_PATH=str(tmp_path / "a:b"))) == {
        "COVERTYPE_PATH": str(ROOT / "README.md")
    }


@pytest.mark.parametrize("environ", [{}, {"COVERTYPE_PATH": ""}, {"COVERTYPE_PATH_": "x"}])
def test_training_without_data_mounts_nothing(environ: dict[str, str]) -> None:
    """Without COVERTYPE_PATH no data set is mounted."""
    assert training_variables(options(**environ)) == {}


@pytest.mark.parametrize(
    ("uri", "alternative"),
    [
        ("http://127.0.0.1:5000", "http://host.docker.internal:5000"),
        ("http://localhost", "http://host.docker.internal"),
        ("https://[::1]:5000/mlflow", "https://host.docker.internal:5000"),
        ("http://LOCALHOST:5000", "http://host.docker.internal:5000"),
        ("postgresql://me:secret@localhost:5432/mlflow", "postgresql://host.docker.internal:5432"),
    ],
)
def test_localhost_registry_is_refused_with_alternative(uri: str, alternative: str) -> None:
    """The error for a registry at localhost names the address by which a container reaches it."""
    message = refused_stack({"MLFLOW_TRACKING_URI": uri})
    masked = uri.replace("secret", "***")
    assert message.startswith(
        f"MLFLOW_TRACKING_URI={masked!r}: inside a container this address is the container itself; use "
    )
    assert f"use {alternative}, with" in message
    assert message.endswith("or BACKEND=local")


@pytest.mark.parametrize("uri", ["sqlite:////srv/mlflow.db", "sqlite:///mlflow.db", "mlruns", "file:///srv/mlruns"])
def test_registry_on_the_host_disk_is_refused(uri: str) -> None:
    """A registry in a file or folder of the host is refused, also if an earlier stack named it."""
    for message in (
        refused_stack({"MLFLOW_TRACKING_URI": uri}),
        refused_stack({}, replace(DEFAULT, environment={"MLFLOW_TRACKING_URI": uri})),
    ):
        assert "containers cannot reach a database or a folder of this machine" in message
        assert message.endswith("serve it with `mlflow server`, or use BACKEND=local")


@pytest.mark.parametrize(
    "uri", ["http://host.docker.internal:5000", "https://registry.example.com", "postgresql://me:x@db/mlflow"]
)
def test_network_registry_address_is_accepted(uri: str) -> None:
    """A registry on the network is accepted unchanged."""
    assert requested(DEFAULT, {"MLFLOW_TRACKING_URI": uri}).environment == {"MLFLOW_TRACKING_URI": uri}


@pytest.mark.parametrize("uri", ["http://mlflow:port", "http://mlflow:99999", "http://[::1", "http://a]b"])
def test_invalid_registry_address_is_refused(uri: str) -> None:
    """The error for an invalid registry URL ends with an example."""
    error = refused_stack({"MLFLOW_TRACKING_URI": uri})
    assert error.startswith(f"MLFLOW_TRACKING_URI={uri!r}: ")
    assert error.endswith("; expected a URL such as http://mlflow:5000")


def test_engine_is_queried_only_to_check_cpus(docker: FakeDocker) -> None:
    """The engine is queried only if a number of CPUs must be checked."""
    requested(DEFAULT, {"N": "2", "MEMORY": "1G"})
    assert docker.calls == []
    docker.start_engine()
    requested(DEFAULT, {"CPUS": "1"})
    assert len(docker.calls) == 1


def test_minimum_limits_match_the_engine() -> None:
    """The lowest accepted limits are exactly the minimum of the engine."""
    stack: Any = with_limits(DEFAULT, options(CPUS=str(topology._MIN_CPUS), MEMORY=str(topology._MIN_MEMORY_BYTES)))
    assert (stack.cpus, stack.memory) == (0.01, str(6 * 1024 * 1024))
