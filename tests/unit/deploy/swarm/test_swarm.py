"""Tests of the stack files for Docker Swarm: they are valid, confined, and agree with docker-compose.yml."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.stack.paths import ROOT
from server.model_store.credentials import CREDENTIAL_VARIABLES

FOLDER = ROOT / "deploy/swarm"
FILES = sorted(path.name for path in FOLDER.glob("*.yml"))
REQUIRED = {"MODEL_URI": "models:/covertype/1", "MLFLOW_TRACKING_URI": "http://registry:5000"}
# Variables of Compose for secrets, which Swarm sets in keys.yml and tls.yml instead.
SECRET_VARIABLES = {"API_KEYS_FILE", "TLS_CERT", "TLS_KEY"}
# The service of docker-compose.yml with the same image, if its name differs.
COMPOSE_NAMES = {"mlflow": "mlflow", "train": "model"}


def read_services(path: Path) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return services


COMPOSE = read_services(ROOT / "docker-compose.yml")
STACK = read_services(FOLDER / "stack.yml")
SERVICES = {
    (file, name): service
    for file in FILES
    for name, service in read_services(FOLDER / file).items()
    if "image" in service
}


def config(*files: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `docker stack config`, which merges and checks the files without an engine."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    paths = [argument for file in files for argument in ("-c", str(FOLDER / file))]
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["docker", "stack", "config", *paths], env=path | environ, capture_output=True, text=True, check=False
    )


def mounts(service: dict[str, Any]) -> dict[str, int]:
    """Return the size in bytes of each tmpfs mount of a service, in the short or the long syntax."""
    short_form = (text.partition(":") for text in service.get("tmpfs", []))
    sizes = {target: int(options.partition("size=")[2].rstrip("m") or 0) << 20 for target, _, options in short_form}
    volumes = (volume for volume in service.get("volumes", []) if isinstance(volume, dict))
    return sizes | {volume["target"]: volume["tmpfs"]["size"] for volume in volumes if volume["type"] == "tmpfs"}


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a service; one without a value is passed on, which is the same as ``${NAME:-}``."""
    return {name: value or f"${{{name}:-}}" for name, value in service["environment"].items()}


def test_files_are_valid_together() -> None:
    """Docker accepts all files together as one stack, with only the required variables set."""
    completed = config("stack.yml", *(file for file in FILES if file != "stack.yml"), **REQUIRED)
    assert completed.returncode == 0, completed.stderr
    assert set(yaml.safe_load(completed.stdout)["services"]) == {name for _, name in SERVICES}


@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_missing_model_or_registry_is_named(missing: str) -> None:
    """A stack without MODEL_URI or MLFLOW_TRACKING_URI is refused with the name of the variable."""
    completed = config("stack.yml", **{name: value for name, value in REQUIRED.items() if name != missing})
    assert completed.returncode != 0
    assert missing in completed.stderr


@pytest.mark.parametrize(("file", "name"), sorted(SERVICES))
def test_containers_are_confined(file: str, name: str) -> None:
    """Every container runs an image of this project, with a read-only file system and without capabilities."""
    service = SERVICES[file, name]
    image = COMPOSE[COMPOSE_NAMES.get(name, name)]["image"].rpartition("}-")[2]
    assert service["image"] == f"${{IMAGE:-forkcast}}-{image}", image
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not {"cap_add", "user", "build", "depends_on", "container_name"} & set(service)


@pytest.mark.parametrize(("file", "name"), sorted(SERVICES))
def test_services_need_no_virtual_address(file: str, name: str) -> None:
    """Every service name resolves to the addresses of its tasks, and no port is published by the routing mesh."""
    service = SERVICES[file, name]
    assert service["deploy"]["endpoint_mode"] == "dnsrr"
    assert all(port["mode"] == "host" for port in service.get("ports", []))
    assert ("ports" in service) is (name == "nginx")


@pytest.mark.parametrize("name", sorted(STACK))
def test_stack_agrees_with_compose(name: str) -> None:
    """A service has the same mounts, limits, logging and variables in stack.yml as in docker-compose.yml."""
    in_swarm, in_compose = STACK[name], COMPOSE[name]
    assert mounts(in_swarm) == mounts(in_compose)
    assert in_swarm["logging"] == in_compose["logging"]
    assert in_swarm["stop_grace_period"] == in_compose["stop_grace_period"]
    limits = in_swarm["deploy"]["resources"]["limits"]
    assert limits["pids"] == in_compose["pids_limit"]
    assert limits.get("memory") == in_compose.get("mem_limit")
    assert limits.get("cpus") == in_compose.get("cpus")
    swarm_variables, compose_variables = environment(in_swarm), environment(in_compose)
    assert set(compose_variables) - set(swarm_variables) <= SECRET_VARIABLES
    common = set(compose_variables) & set(swarm_variables)
    assert {key: swarm_variables[key] for key in common} == {key: compose_variables[key] for key in common}


def test_locust_limits_agree_with_compose() -> None:
    """Locust and its workers have the CPU and memory limits of docker-compose.yml."""
    for name in ("locust", "locust-worker"):
        limits = SERVICES["locust.yml", name]["deploy"]["resources"]["limits"]
        assert (float(limits["cpus"]) if name == "locust" else limits["cpus"]) == COMPOSE[name]["cpus"]
        assert limits["memory"] == COMPOSE[name]["mem_limit"]


def test_updates_start_new_replicas_first_and_roll_back() -> None:
    """Updates start one new replica before they stop an old one, and roll back if it fails."""
    deploy = STACK["server"]["deploy"]
    for configuration in (deploy["update_config"], deploy["rollback_config"]):
        assert (configuration["order"], configuration["parallelism"]) == ("start-first", 1)
    assert deploy["update_config"]["failure_action"] == "rollback"
    # Replicas download the model themselves, and all replicas of a node share the copies.
    assert "models:/var/lib/forkcast/models" in STACK["server"]["volumes"]


def test_secret_files_are_readable_only_by_their_service() -> None:
    """Each secret is a file that only its service's user can read, with a name that a variable can change."""
    for file, user in (("keys.yml", "10001"), ("credentials.yml", "10001"), ("tls.yml", "101")):
        document = yaml.safe_load((FOLDER / file).read_text())
        (service,) = document["services"].values()
        for secret in service["secrets"]:
            assert (secret["uid"], secret["gid"], secret["mode"]) == (user, user, 0o400)
            assert secret["target"] in service["environment"].values()
        assert all(re.search(r"\$\{[A-Z_]+:-", secret["name"]) for secret in document["secrets"].values())
        assert {secret["source"] for secret in service["secrets"]} == set(document["secrets"])


def test_credential_variables_are_read_by_the_resolver() -> None:
    """Each variable that names the file of a credential is one that the model resolver reads."""
    (service,) = read_services(FOLDER / "credentials.yml").values()
    assert set(service["environment"]) <= {f"{name}_FILE" for name in CREDENTIAL_VARIABLES}


def test_training_is_retried_until_the_registry_has_started() -> None:
    """The training job is retried for as long as MLflow may take to start, at most ten times."""
    restart_policy = SERVICES["registry.yml", "train"]["deploy"]["restart_policy"]
    start_period = SERVICES["registry.yml", "mlflow"]["healthcheck"]["start_period"]
    assert restart_policy["condition"] == "on-failure"
    assert restart_policy["max_attempts"] <= 10
    assert restart_policy["max_attempts"] * int(restart_policy["delay"].rstrip("s")) >= int(start_period.rstrip("s"))


def test_documented_stack_name_differs_from_compose_projects() -> None:
    """Commands in docs and stack files name the stack forkcast-swarm, because Compose uses the checkout's name."""
    texts = [path.read_text() for path in (ROOT / "docs/swarm.md", *sorted(FOLDER.glob("*.yml")))]
    pattern = r"(?:\.yml|stack (?:ps|rm)) (forkcast[\w-]*)|(forkcast[\w-]*)_(?:server|train|locust)"
    names = {first or second for text in texts for first, second in re.findall(pattern, text)}
    assert names == {"forkcast-swarm"}
