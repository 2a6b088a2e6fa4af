"""What the stack files of a Swarm promise, beside docker-compose.yml."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.stack.paths import ROOT
from server.model_store.credentials import VARIABLES

FOLDER = ROOT / "deploy/swarm"
FILES = sorted(path.name for path in FOLDER.glob("*.yml"))
ASKED = {"MODEL_URI": "models:/covertype/1", "MLFLOW_TRACKING_URI": "http://registry:5000"}
# What Compose is told of secrets; here files of their own have it.
IN_FILES = {"API_KEYS_FILE", "TLS_CERT", "TLS_KEY"}
# Which service of docker-compose.yml runs the same.
COMPOSED = {"mlflow": "mlflow", "train": "model"}


def read(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


COMPOSE = read(ROOT / "docker-compose.yml")
STACK = read(FOLDER / "stack.yml")
EVERY = {(file, name): one for file in FILES for name, one in read(FOLDER / file).items() if "image" in one}


def config(*files: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """What Docker's own client makes of them; it asks no engine."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    paths = [word for file in files for word in ("-c", str(FOLDER / file))]
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["docker", "stack", "config", *paths], env=path | environ, capture_output=True, text=True, check=False
    )


def mounts(service: dict[str, Any]) -> dict[str, int]:
    """The tmpfs mounts and their sizes, of a service in either form."""
    short = (text.partition(":") for text in service.get("tmpfs", []))
    sizes = {target: int(options.partition("size=")[2].rstrip("m") or 0) << 20 for target, _, options in short}
    long = (volume for volume in service.get("volumes", []) if isinstance(volume, dict) and volume["type"] == "tmpfs")
    return sizes | {volume["target"]: volume["tmpfs"]["size"] for volume in long}


def environment(service: dict[str, Any]) -> dict[str, str]:
    """What a container is told; what is handed on if it is set, in the one form that both ways of writing it mean."""
    return {name: value or f"${{{name}:-}}" for name, value in service["environment"].items()}


def test_files_are_valid_together() -> None:
    """Docker reads all files as one stack, with nothing else set than what they ask for."""
    ran = config("stack.yml", *(file for file in FILES if file != "stack.yml"), **ASKED)
    assert ran.returncode == 0, ran.stderr
    assert set(yaml.safe_load(ran.stdout)["services"]) == {name for _, name in EVERY}


@pytest.mark.parametrize("missing", sorted(ASKED))
def test_model_and_registry_are_asked_for(missing: str) -> None:
    """A stack is refused whose model or registry nobody named, by the variable's name."""
    ran = config("stack.yml", **{name: value for name, value in ASKED.items() if name != missing})
    assert ran.returncode != 0
    assert missing in ran.stderr


@pytest.mark.parametrize(("file", "name"), sorted(EVERY))
def test_containers_are_confined(file: str, name: str) -> None:
    """Every container is of an image of ours, with a read-only file system and no capability."""
    one = EVERY[file, name]
    image = COMPOSE[COMPOSED.get(name, name)]["image"].rpartition("}-")[2]
    assert one["image"] == f"${{IMAGE:-forkcast}}-{image}", image
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert not {"cap_add", "user", "build", "depends_on", "container_name"} & set(one)


@pytest.mark.parametrize(("file", "name"), sorted(EVERY))
def test_services_need_no_virtual_address(file: str, name: str) -> None:
    """Every service is found by its tasks' own addresses, and none is published by the ingress mesh."""
    one = EVERY[file, name]
    assert one["deploy"]["endpoint_mode"] == "dnsrr"
    assert all(port["mode"] == "host" for port in one.get("ports", []))
    assert ("ports" in one) is (name == "nginx")


@pytest.mark.parametrize("name", sorted(STACK))
def test_stack_agrees_with_compose(name: str) -> None:
    """Where both files say something of a service, they say the same."""
    ours, composed = STACK[name], COMPOSE[name]
    assert mounts(ours) == mounts(composed)
    assert ours["logging"] == composed["logging"]
    assert ours["stop_grace_period"] == composed["stop_grace_period"]
    limits = ours["deploy"]["resources"]["limits"]
    assert limits["pids"] == composed["pids_limit"]
    assert limits.get("memory") == composed.get("mem_limit")
    assert limits.get("cpus") == composed.get("cpus")
    handed, asked = environment(ours), environment(composed)
    assert set(asked) - set(handed) <= IN_FILES
    both = set(asked) & set(handed)
    assert {key: handed[key] for key in both} == {key: asked[key] for key in both}


def test_generator_agrees_with_compose() -> None:
    """Locust is held to what Compose holds it to."""
    for name in ("locust", "locust-worker"):
        limits = EVERY["locust.yml", name]["deploy"]["resources"]["limits"]
        assert (float(limits["cpus"]) if name == "locust" else limits["cpus"]) == COMPOSE[name]["cpus"]
        assert limits["memory"] == COMPOSE[name]["mem_limit"]


def test_updates_lose_nothing_and_go_back() -> None:
    """A new replica is there before an old one goes, one at a time, and one that fails takes the update back."""
    deploy = STACK["server"]["deploy"]
    for how in (deploy["update_config"], deploy["rollback_config"]):
        assert (how["order"], how["parallelism"]) == ("start-first", 1)
    assert deploy["update_config"]["failure_action"] == "rollback"
    # A replica copies what it was told to serve, and every replica of a node shares the copies.
    assert "models:/var/lib/forkcast/models" in STACK["server"]["volumes"]


def test_secrets_are_files_of_the_user_who_reads_them() -> None:
    """Each secret is a file that its service's user alone can read, under a name that a rotation changes."""
    for file, user in (("keys.yml", "10001"), ("credentials.yml", "10001"), ("tls.yml", "101")):
        document = yaml.safe_load((FOLDER / file).read_text())
        (service,) = document["services"].values()
        for secret in service["secrets"]:
            assert (secret["uid"], secret["gid"], secret["mode"]) == (user, user, 0o400)
            assert secret["target"] in service["environment"].values()
        assert all(re.search(r"\$\{[A-Z_]+:-", one["name"]) for one in document["secrets"].values())
        assert {secret["source"] for secret in service["secrets"]} == set(document["secrets"])


def test_credentials_reach_the_resolver() -> None:
    """What names a credential's file is a variable that the resolver reads."""
    (service,) = read(FOLDER / "credentials.yml").values()
    assert set(service["environment"]) <= {f"{name}_FILE" for name in VARIABLES}


def test_training_waits_for_the_registry_and_gives_up() -> None:
    """The job is tried again for as long as MLflow may take to start, and a lasting error is tried a few times only."""
    again = EVERY["registry.yml", "train"]["deploy"]["restart_policy"]
    may_take = EVERY["registry.yml", "mlflow"]["healthcheck"]["start_period"]
    assert again["condition"] == "on-failure"
    assert again["max_attempts"] <= 10
    assert again["max_attempts"] * int(again["delay"].rstrip("s")) >= int(may_take.rstrip("s"))


def test_page_names_no_stack_like_a_checkout() -> None:
    """No command of the page or of a stack file deploys under the name of a checkout, which Compose takes."""
    texts = [path.read_text() for path in (ROOT / "docs/swarm.md", *sorted(FOLDER.glob("*.yml")))]
    named = r"(?:\.yml|stack (?:ps|rm)) (forkcast[\w-]*)|(forkcast[\w-]*)_(?:server|train|locust)"
    found = {first or second for text in texts for first, second in re.findall(named, text)}
    assert found == {"forkcast-swarm"}
