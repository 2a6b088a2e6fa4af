"""What the container files promise: docker-compose.yml, the Dockerfile, its locks and Nginx's templates."""

from __future__ import annotations

import ast
import fnmatch
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.backends.docker.engine import MONITORING_SERVICES, SERVICES
from deploy.backends.docker.registry import ADDRESS
from deploy.backends.docker.topology import DEFAULT, variables
from deploy.options import COMPOSE_VARIABLES as FILLED_IN
from deploy.options import MAX_REPLICAS, VARIABLES
from deploy.stack import registry_services
from deploy.stack.paths import ROOT
from deploy.variables import INTERNAL_VARIABLES
from server.settings import Settings
from tests.support.dockerfile import DOCKERFILE, stage, stage_variables

COMPOSE = (ROOT / "docker-compose.yml").read_text()
TLS = (ROOT / "deploy/backends/docker/tls.yml").read_text()
TEMPLATES = sorted(path.name for path in (ROOT / "nginx").glob("*.conf") if path.name != "upstream-local.conf")
LOCKS = ROOT / "deploy/requirements"
EVERY_SERVICE = ("model", *SERVICES, *registry_services.SERVICES, *MONITORING_SERVICES)
# Services that another one's image is built for.
BUILT_BY = {"locust-worker": "locust", "mlflow": "model", "nginx-exporter": "prometheus"}
# Those that run an image of somebody else's as it is.
FOREIGN = {"database", "grafana"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
    return found


def code(text: str) -> str:
    """A file without its comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def pins(path: Path) -> dict[str, set[str]]:
    """Each package of a lock file, with the versions that it may have on one platform or another."""
    found: dict[str, set[str]] = {}
    for line in code(path.read_text()).splitlines():
        name, _, version = line.partition(";")[0].strip().partition("==")
        assert re.fullmatch(r"[a-z0-9.-]+", name), line
        assert re.fullmatch(r"[a-z0-9.]+", version), line
        found.setdefault(name, set()).add(version)
    return found


def test_compose_services_match_the_known_services(services: dict[str, dict[str, Any]]) -> None:
    """There are those services that the verbs know, and the one-shot one that brings the model."""
    assert set(services) == set(EVERY_SERVICE)


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_containers_are_confined(services: dict[str, dict[str, Any]], service: str) -> None:
    """Every container has a read-only file system, no capability, no way to more of them, and bounded logs."""
    one = services[service]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert "cap_add" not in one
    assert not one.get("privileged")
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["pids_limit"] > 0
    assert one["logging"]["driver"] == "json-file"
    assert {"max-size", "max-file"} <= set(one["logging"]["options"])
    assert one["logging"]["options"]["mode"] == "non-blocking"


@pytest.mark.parametrize("service", sorted({*EVERY_SERVICE} - FOREIGN))
def test_images_are_built_by_their_names(services: dict[str, dict[str, Any]], service: str) -> None:
    """Every image can be built from here, once, or pulled under one name with the service's at its end."""
    image = BUILT_BY.get(service, service)
    assert services[service]["image"] == f"${{IMAGE:-${{COMPOSE_PROJECT_NAME:-forkcast}}}}-{image}:${{TAG:-latest}}"
    assert ("build" in services[service]) is (image == service)
    build = services[image]["build"]
    assert (build["dockerfile"], build["target"]) == ("deploy/images/Dockerfile", image)
    assert f" AS {image}\n" in DOCKERFILE


def test_only_documented_ports_are_published(services: dict[str, dict[str, Any]]) -> None:
    """Nginx is reached where HTTP_HOST says, the pages for people from this machine alone, and nothing else at all."""
    ports = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert ports == {
        "nginx": ["${HTTP_HOST:-0.0.0.0}:${HTTP_PORT:-80}:8080"],
        "locust": ["127.0.0.1:${LOCUST_PORT:-8089}:8089"],
        "mlflow": ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
    assert not any("network_mode" in one for one in services.values())


def test_replicas_can_be_many(services: dict[str, dict[str, Any]]) -> None:
    """A replica has no name and no port of its own, and cannot change the model that all of them read."""
    server = services["server"]
    assert not {"container_name", "ports", "hostname", "deploy"} & set(server)
    keys = "${API_KEYS_FOLDER:-nothing}:/run/secrets/forkcast:ro"
    assert server["volumes"] == ["models:/var/lib/forkcast/models:ro", keys]


def test_only_the_model_service_mounts_the_registry(services: dict[str, dict[str, Any]]) -> None:
    """The registry is seen by the one-shot service alone, which sees the host's own files without changing them."""
    volumes = {"registry", "models", "database", "objects", "metrics", "nothing"}
    assert set(yaml.safe_load(COMPOSE)["volumes"]) == volumes
    for name, one in services.items():
        assert any(volume.startswith("registry:") for volume in one.get("volumes", [])) is (name == "model")
    bound = [volume for volume in services["model"]["volumes"] if not volume.startswith(("registry:", "models:"))]
    assert bound
    assert all(volume.endswith(":ro") for volume in bound)


def test_replicas_have_no_swap(services: dict[str, dict[str, Any]]) -> None:
    """A replica's memory is limited, swap included."""
    assert services["server"]["mem_limit"] == services["server"]["memswap_limit"] == "${SERVER_MEMORY:-1G}"


def test_limits_of_the_load_generator(services: dict[str, dict[str, Any]]) -> None:
    """Each worker is held to what the stack's settings say, else to one CPU and 1 GiB; the master has less."""
    worker, master = services["locust-worker"], services["locust"]
    assert (worker["cpus"], worker["mem_limit"]) == ("${LOCUST_CPUS:-1}", "${LOCUST_MEMORY:-1G}")
    assert (master["cpus"], master["mem_limit"]) == (0.5, "512M")


def test_load_generator_is_distributed(services: dict[str, dict[str, Any]]) -> None:
    """Locust's service is the master, and the workers, of any number, find it by its name."""
    assert services["locust"]["command"][-1] == "--master"
    assert services["locust-worker"]["command"][-3:] == ["--worker", "--master-host", "locust"]
    assert services["locust-worker"]["scale"] == "${LOCUST_WORKERS:-1}"
    assert not {"container_name", "ports", "hostname", "deploy"} & set(services["locust-worker"])


def test_model_is_told_on_its_images_alone(services: dict[str, dict[str, Any]]) -> None:
    """An image's label names the model where it is one for that, so that another model does not replace Nginx."""
    told = {name for name, one in services.items() if "forkcast.model" in one.get("build", {}).get("labels", {})}
    assert told == {"model", "server"}


def test_replicas_wait_for_the_model_service(services: dict[str, dict[str, Any]]) -> None:
    """What brings the model ends, and the replicas wait for it to have worked."""
    assert services["model"]["restart"] == "no"
    assert services["server"]["depends_on"] == {"model": {"condition": "service_completed_successfully"}}
    assert {name: services[name]["restart"] for name in SERVICES} == dict.fromkeys(SERVICES, "unless-stopped")


def handed_on(services: dict[str, dict[str, Any]]) -> set[str]:
    """Variables that a container gets from the environment of Compose, if they are set there."""
    found = ((name, value) for one in services.values() for name, value in one.get("environment", {}).items())
    return {name for name, value in found if value is None}


def test_variables_come_from_the_stack(services: dict[str, dict[str, Any]]) -> None:
    """What the file asks for is kept out of the user's shell, and what verbs fill in for it alone is asked for."""
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", code(COMPOSE) + code(TLS))) | handed_on(services)
    assert asked <= set(FILLED_IN)
    assert set(INTERNAL_VARIABLES) - {"COMPOSE_PROFILES"} <= asked


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_each_service_receives_the_variables_that_the_table_names(service: str) -> None:
    """A container is handed those variables of which the table says so, and no other of the table."""
    received: set[str] = set()
    for text in (COMPOSE, TLS):
        environment = yaml.safe_load(text)["services"].get(service, {}).get("environment", {})
        received |= set(environment) | set(re.findall(r"\$\{([A-Z0-9_]+):-", " ".join(map(str, environment.values()))))
    names = {one.name for one in VARIABLES}
    assert received & names == {one.name for one in VARIABLES if service in one.services}


def test_file_of_api_keys_is_seen_at_another_place(services: dict[str, dict[str, Any]]) -> None:
    """Replicas find the file of API keys in the folder that is mounted for them."""
    assert services["server"]["environment"]["API_KEYS_FILE"].startswith("${API_KEYS_FOLDER:+/run/secrets/forkcast/")


def test_defaults_are_those_of_the_verbs() -> None:
    """`docker compose up` by itself starts what `make up` starts."""
    defaults = dict(re.findall(r"\$\{([A-Z0-9_]+):-([^${}]+)\}", code(COMPOSE)))
    filled = variables(DEFAULT)
    assert {name: defaults[name] for name in filled} == filled
    settings = Settings.from_env({})
    assert defaults["MAX_BODY_BYTES"] == str(settings.max_body_bytes)
    assert defaults["MODEL_URI"] == settings.model_uri


def test_base_images_have_a_tag() -> None:
    """Every image that ours are built on is named with its version."""
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    stages = re.findall(r"^FROM (?:--platform=\$BUILDPLATFORM )?(\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(stages) == len(re.findall("^FROM", DOCKERFILE, re.MULTILINE))
    names = {name for _, name in stages}
    for base in {base for base, _ in stages} - names:
        image = arguments[base.strip("${}")]
        assert re.fullmatch(r"[a-z]+:(?:[0-9][a-z0-9.-]*|trixie-slim)", image), image


def test_services_beside_the_stack_are_started_only_when_asked_for(services: dict[str, dict[str, Any]]) -> None:
    """The registry is in one profile, what watches in another, each service also in its own; nothing else is."""
    profiles = {name: one["profiles"] for name, one in services.items() if "profiles" in one}
    full = {name: ["full", name] for name in registry_services.SERVICES}
    assert profiles == full | {name: ["monitoring", name] for name in MONITORING_SERVICES}


def test_registry_is_not_needed(services: dict[str, dict[str, Any]]) -> None:
    """What waits for one of the registry's services starts without it, where another one stands in for it."""
    waits = [one.get("depends_on", {}) for one in services.values()]
    needed = {name: how for one in waits for name, how in one.items() if name in registry_services.SERVICES}
    assert set(needed) == set(registry_services.SERVICES)
    assert all(how == {"condition": "service_healthy", "required": False} for how in needed.values())


def test_replicas_know_no_secret(services: dict[str, dict[str, Any]]) -> None:
    """Neither the replicas nor what stands around them is handed what opens the registry."""
    for name in SERVICES:
        assert not {*registry_services.SERVER_ONLY_VARIABLES, *registry_services.CLIENT_VARIABLES} & set(
            services[name].get("environment", {})
        ), name
    assert not registry_services.SERVER_ONLY_VARIABLES & set(services["model"]["environment"])
    assert set(registry_services.CLIENT_VARIABLES) < set(services["model"]["environment"])


def test_registry_of_the_stack_is_where_the_verbs_have_it(services: dict[str, dict[str, Any]]) -> None:
    """The trainer knows the stack's own registry by the address that the verbs give it."""
    assert services["model"]["environment"][registry_services.OWN_REGISTRY_VARIABLE] == ADDRESS


def test_no_default_password(services: dict[str, dict[str, Any]]) -> None:
    """No secret has a value in the file."""
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|KEY_ID")
    told = [(name, value) for one in services.values() for name, value in one.get("environment", {}).items()]
    values = {value for name, value in told if secret.search(name) and value is not None}
    assert values == {"${DATABASE_PASSWORD:-}", "/proc/sys/kernel/random/uuid"}


@pytest.mark.parametrize("service", sorted({*EVERY_SERVICE} - FOREIGN))
def test_nothing_runs_as_root(service: str) -> None:
    """Every image names the user that it runs as by number, which is not root's."""
    own = stage(BUILT_BY.get(service, service))
    base = own if "\nUSER " in own else stage("runtime")
    (user,) = re.findall(r"^USER (\S+)$", base, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_nginx_tries_every_replica() -> None:
    """There may be as many replicas as Nginx tries before it gives up."""
    assert int(stage_variables("nginx")["TRIES"]) == MAX_REPLICAS["docker"]


def test_replica_reads_what_was_brought() -> None:
    """The replicas' model is the record that the one-shot service writes, in the volume that they share."""
    server = stage_variables("server")
    settings = Settings.from_env(server)
    assert settings.model_uri == str(settings.models_dir / "current.json")
    assert stage_variables("model")["VAR_DIR"] == server["VAR_DIR"]


def filtered() -> set[str]:
    pattern = stage_variables("nginx")["NGINX_ENVSUBST_FILTER"]
    assert re.fullmatch(r"\^\([A-Z0-9_|]+\)\$", pattern)
    return set(pattern.strip("^()$").split("|"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_use_what_is_filled_in(name: str) -> None:
    """A template uses no variable that Nginx's entrypoint would leave as it is."""
    text = code((ROOT / "nginx" / name).read_text())
    assert set(re.findall(r"\$\{?([A-Z][A-Z0-9_]*)", text)) <= filtered()


def test_image_has_every_template() -> None:
    """Each file that Nginx may include is in its image."""
    copied = re.findall(r"^COPY --link nginx/(\S+) /etc/nginx/templates/(\S+)\.template$", stage("nginx"), re.MULTILINE)
    assert sorted(name for name, _ in copied) == TEMPLATES
    assert all(name in (target, "upstream-docker.conf") for name, target in copied)


def test_tls_is_for_the_door_and_its_clients() -> None:
    """The key is seen by Nginx alone, the certificate by it and by Locust, and each is there to be read only."""
    services = yaml.safe_load(TLS)["services"]
    assert services["nginx"]["ports"] == ["${HTTP_HOST:-0.0.0.0}:${HTTPS_PORT:-443}:8443"]
    mounts = {name: one["volumes"] for name, one in services.items()}
    assert all(mount.endswith(":ro") for volumes in mounts.values() for mount in volumes)
    assert {name for name, volumes in mounts.items() if "TLS_KEY" in str(volumes)} == {"nginx"}
    assert set(mounts) == {"nginx", "locust", "locust-worker"}


def test_every_variable_of_the_templates_has_a_value() -> None:
    """Each variable that is filled in is used, and has a value in the image or from its limits."""
    used = {
        variable
        for name in TEMPLATES
        for variable in re.findall(r"\$\{([A-Z0-9_]+)\}", code((ROOT / "nginx" / name).read_text()))
    }
    exported = " ".join(
        re.findall(r"^export (.*)$", (ROOT / "deploy/images/nginx-limits.envsh").read_text(), re.MULTILINE)
    )
    assert used == filtered()
    assert used <= set(stage_variables("nginx")) | set(exported.split())


@pytest.mark.parametrize("lock", sorted(path.name for path in LOCKS.glob("*.txt")))
def test_locks_use_no_index_and_agree_with_dev(lock: str) -> None:
    """A lock names no index, so that a network's own is used, and has no other version than the largest lock has."""
    assert "://" not in (LOCKS / lock).read_text()
    largest, own = pins(LOCKS / "dev.txt"), pins(LOCKS / lock)
    assert own
    # What engines are compared with is in no other environment.
    known = {name for name in own if lock != "engines.txt" or name in largest}
    assert {name: own[name] - largest.get(name, set()) for name in known} == {name: set() for name in known}


def let_in(path: str) -> bool:
    """Whether Dockerfile.dockerignore lets a path into the context: the last line that matches counts."""
    found = False
    for line in code((ROOT / "deploy/images/Dockerfile.dockerignore").read_text()).splitlines():
        pattern = line.removeprefix("!").rstrip("/")
        parts = [path, *map(str, Path(path).parents)]
        if any(fnmatch.fnmatch(part, pattern) for part in parts if part != "."):
            found = line.startswith("!")
    return found


def copied() -> list[str]:
    """Every path of the checkout that goes into an image."""
    lines = re.findall(r"^COPY (?:--(?:link|chmod=\d+) )*(?!--)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_context_has_what_is_copied() -> None:
    """What an image copies from the checkout is there, and let into the context; secrets and data are not."""
    sources = copied()
    assert "server" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert let_in(source), source
    for kept_out in (
        ".env",
        ".git",
        "var/mlflow.db",
        "tests/unit/test_compose.py",
        "deploy/cli.py",
        ".venv/bin/python",
    ):
        assert not let_in(kept_out), kept_out


def test_model_image_has_what_it_imports() -> None:
    """What brings the model imports nothing of `deploy` that its image lacks."""
    inside = [source.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for source in copied()]
    for path in (ROOT / "deploy/models").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deploy"):
                module = str(node.module)
                assert any(module == one or module.startswith(f"{one}.") for one in inside if one != "deploy"), (
                    f"{path}: {module}"
                )


def test_server_image_needs_no_deploy() -> None:
    """A replica imports nothing of `deploy`."""
    for path in [*(ROOT / "server").rglob("*.py"), ROOT / "gunicorn.conf.py"]:
        assert not re.search(r"^\s*(from|import) deploy\b", path.read_text(), re.MULTILINE), path
