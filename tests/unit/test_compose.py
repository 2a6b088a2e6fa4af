"""Tests of docker-compose.yml, the Dockerfile, the lock files and the templates of Nginx."""

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
from deploy.options import COMPOSE_VARIABLES, MAX_REPLICAS, VARIABLES
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
# Services that run the image of another service.
BUILT_BY = {"locust-worker": "locust", "mlflow": "model", "nginx-exporter": "prometheus"}
# Services that run an unchanged image of another project.
THIRD_PARTY = {"database", "grafana"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
    return services


def without_comments(text: str) -> str:
    """Return a text without lines of comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def pins(path: Path) -> dict[str, set[str]]:
    """Return the packages of a lock file, each with its versions on all platforms."""
    versions: dict[str, set[str]] = {}
    for line in without_comments(path.read_text()).splitlines():
        name, _, version = line.partition(";")[0].strip().partition("==")
        assert re.fullmatch(r"[a-z0-9.-]+", name), line
        assert re.fullmatch(r"[a-z0-9.]+", version), line
        versions.setdefault(name, set()).add(version)
    return versions


def test_compose_services_match_the_known_services(services: dict[str, dict[str, Any]]) -> None:
    """docker-compose.yml has exactly the services that the verbs know, and the service `model`."""
    assert set(services) == set(EVERY_SERVICE)


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_containers_are_confined(services: dict[str, dict[str, Any]], service: str) -> None:
    """Every container has a read-only file system, no capabilities, no new privileges and bounded logs."""
    container = services[service]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "cap_add" not in container
    assert not container.get("privileged")
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["pids_limit"] > 0
    assert container["logging"]["driver"] == "json-file"
    assert {"max-size", "max-file"} <= set(container["logging"]["options"])
    assert container["logging"]["options"]["mode"] == "non-blocking"


@pytest.mark.parametrize("service", sorted({*EVERY_SERVICE} - THIRD_PARTY))
def test_images_are_built_by_their_names(services: dict[str, dict[str, Any]], service: str) -> None:
    """Every image is built by exactly one service, and its name ends with the name of that service."""
    image = BUILT_BY.get(service, service)
    assert services[service]["image"] == f"${{IMAGE:-${{COMPOSE_PROJECT_NAME:-forkcast}}}}-{image}:${{TAG:-latest}}"
    assert ("build" in services[service]) is (image == service)
    build = services[image]["build"]
    assert (build["dockerfile"], build["target"]) == ("deploy/images/Dockerfile", image)
    assert f" AS {image}\n" in DOCKERFILE


def test_only_documented_ports_are_published(services: dict[str, dict[str, Any]]) -> None:
    """Nginx is published at HTTP_HOST, web pages only on this machine, and no other port."""
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {
        "nginx": ["${HTTP_HOST:-0.0.0.0}:${HTTP_PORT:-80}:8080"],
        "locust": ["127.0.0.1:${LOCUST_PORT:-8089}:8089"],
        "mlflow": ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
    assert not any("network_mode" in service for service in services.values())


def test_replicas_can_be_many(services: dict[str, dict[str, Any]]) -> None:
    """A replica has no container name and no published port, and mounts the models read-only."""
    server = services["server"]
    assert not {"container_name", "ports", "hostname", "deploy"} & set(server)
    keys = "${API_KEYS_FOLDER:-nothing}:/run/secrets/forkcast:ro"
    assert server["volumes"] == ["models:/var/lib/forkcast/models:ro", keys]


def test_only_the_model_service_mounts_the_registry(services: dict[str, dict[str, Any]]) -> None:
    """Only the service `model` mounts the registry, and it mounts files of the host read-only."""
    volumes = {"registry", "models", "database", "objects", "metrics", "nothing"}
    assert set(yaml.safe_load(COMPOSE)["volumes"]) == volumes
    for name, service in services.items():
        assert any(volume.startswith("registry:") for volume in service.get("volumes", [])) is (name == "model")
    bound = [volume for volume in services["model"]["volumes"] if not volume.startswith(("registry:", "models:"))]
    assert bound
    assert all(volume.endswith(":ro") for volume in bound)


def test_replicas_have_no_swap(services: dict[str, dict[str, Any]]) -> None:
    """The memory limit of a replica includes swap."""
    assert services["server"]["mem_limit"] == services["server"]["memswap_limit"] == "${SERVER_MEMORY:-1G}"


def test_limits_of_the_load_generator(services: dict[str, dict[str, Any]]) -> None:
    """A Locust worker has the limits of the settings, by default 1 CPU and 1 GiB, and the master has less."""
    worker, master = services["locust-worker"], services["locust"]
    assert (worker["cpus"], worker["mem_limit"]) == ("${LOCUST_CPUS:-1}", "${LOCUST_MEMORY:-1G}")
    assert (master["cpus"], master["mem_limit"]) == (0.5, "512M")


def test_load_generator_is_distributed(services: dict[str, dict[str, Any]]) -> None:
    """The service `locust` is the master, and any number of workers connect to it by its name."""
    assert services["locust"]["command"][-1] == "--master"
    assert services["locust-worker"]["command"][-3:] == ["--worker", "--master-host", "locust"]
    assert services["locust-worker"]["scale"] == "${LOCUST_WORKERS:-1}"
    assert not {"container_name", "ports", "hostname", "deploy"} & set(services["locust-worker"])


def test_only_images_of_the_model_have_its_label(services: dict[str, dict[str, Any]]) -> None:
    """Only the images `model` and `server` have the label of the model, so that another model replaces no Nginx."""
    labelled = {
        name for name, service in services.items() if "forkcast.model" in service.get("build", {}).get("labels", {})
    }
    assert labelled == {"model", "server"}


def test_replicas_wait_for_the_model_service(services: dict[str, dict[str, Any]]) -> None:
    """The service `model` runs once, and replicas start after it has succeeded."""
    assert services["model"]["restart"] == "no"
    assert services["server"]["depends_on"] == {"model": {"condition": "service_completed_successfully"}}
    assert {name: services[name]["restart"] for name in SERVICES} == dict.fromkeys(SERVICES, "unless-stopped")


def inherited_variables(services: dict[str, dict[str, Any]]) -> set[str]:
    """Return the variables that containers get from the environment of Compose, if they are set there."""
    environments = [service.get("environment", {}) for service in services.values()]
    return {name for environment in environments for name, value in environment.items() if value is None}


def test_compose_files_use_known_variables(services: dict[str, dict[str, Any]]) -> None:
    """The Compose files use only variables that the verbs set, and use all internal ones."""
    used = set(
        re.findall(r"\$\{([A-Z0-9_]+)", without_comments(COMPOSE) + without_comments(TLS))
    ) | inherited_variables(services)
    assert used <= set(COMPOSE_VARIABLES)
    assert set(INTERNAL_VARIABLES) - {"COMPOSE_PROFILES"} <= used


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_each_service_receives_the_variables_that_the_table_names(service: str) -> None:
    """A container receives exactly the variables that the tables assign to its service."""
    received: set[str] = set()
    for text in (COMPOSE, TLS):
        environment = yaml.safe_load(text)["services"].get(service, {}).get("environment", {})
        received |= set(environment) | set(re.findall(r"\$\{([A-Z0-9_]+):-", " ".join(map(str, environment.values()))))
    names = {variable.name for variable in VARIABLES}
    assert received & names == {variable.name for variable in VARIABLES if service in variable.services}


def test_api_keys_file_is_in_the_mounted_folder(services: dict[str, dict[str, Any]]) -> None:
    """The path of the API keys in replicas is in the folder that is mounted for them."""
    assert services["server"]["environment"]["API_KEYS_FILE"].startswith("${API_KEYS_FOLDER:+/run/secrets/forkcast/")


def test_defaults_are_those_of_the_verbs() -> None:
    """Plain `docker compose up` has the same defaults as `make up`."""
    defaults = dict(re.findall(r"\$\{([A-Z0-9_]+):-([^${}]+)\}", without_comments(COMPOSE)))
    set_by_verbs = variables(DEFAULT)
    assert {name: defaults[name] for name in set_by_verbs} == set_by_verbs
    settings = Settings.from_env({})
    assert defaults["MAX_BODY_BYTES"] == str(settings.max_body_bytes)
    assert defaults["MODEL_URI"] == settings.model_uri


def test_base_images_have_a_tag() -> None:
    """Every base image in the Dockerfile has a tag with its version."""
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    stages = re.findall(r"^FROM (?:--platform=\$BUILDPLATFORM )?(\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(stages) == len(re.findall("^FROM", DOCKERFILE, re.MULTILINE))
    names = {name for _, name in stages}
    for base in {base for base, _ in stages} - names:
        image = arguments[base.strip("${}")]
        assert re.fullmatch(r"[a-z]+:(?:[0-9][a-z0-9.-]*|trixie-slim)", image), image


def test_registry_and_monitoring_are_in_profiles(services: dict[str, dict[str, Any]]) -> None:
    """Services of the registry and of monitoring are in a common and an own profile, and no other services are."""
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    full = {name: ["full", name] for name in registry_services.SERVICES}
    assert profiles == full | {name: ["monitoring", name] for name in MONITORING_SERVICES}


def test_registry_services_are_optional_dependencies(services: dict[str, dict[str, Any]]) -> None:
    """A service that depends on a service of the registry also starts without it, for an external one."""
    conditions = {
        name: condition
        for service in services.values()
        for name, condition in service.get("depends_on", {}).items()
        if name in registry_services.SERVICES
    }
    assert set(conditions) == set(registry_services.SERVICES)
    assert all(condition == {"condition": "service_healthy", "required": False} for condition in conditions.values())


def test_replicas_receive_no_credentials_of_the_registry(services: dict[str, dict[str, Any]]) -> None:
    """Only the service `model` receives credentials of the registry, and none of its servers' secrets."""
    for name in SERVICES:
        assert not {*registry_services.SERVER_ONLY_VARIABLES, *registry_services.CLIENT_VARIABLES} & set(
            services[name].get("environment", {})
        ), name
    assert not registry_services.SERVER_ONLY_VARIABLES & set(services["model"]["environment"])
    assert set(registry_services.CLIENT_VARIABLES) < set(services["model"]["environment"])


def test_trainer_knows_the_address_of_the_own_registry(services: dict[str, dict[str, Any]]) -> None:
    """The service `model` has the address of the stack's own registry that the verbs use."""
    assert services["model"]["environment"][registry_services.OWN_REGISTRY_VARIABLE] == ADDRESS


def test_no_default_password(services: dict[str, dict[str, Any]]) -> None:
    """No secret has a value in the file."""
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|KEY_ID")
    entries = [(name, value) for service in services.values() for name, value in service.get("environment", {}).items()]
    values = {value for name, value in entries if secret.search(name) and value is not None}
    assert values == {"${DATABASE_PASSWORD:-}", "/proc/sys/kernel/random/uuid"}


@pytest.mark.parametrize("service", sorted({*EVERY_SERVICE} - THIRD_PARTY))
def test_images_do_not_run_as_root(service: str) -> None:
    """Every image sets a numeric user and group, and neither is 0."""
    own_stage = stage(BUILT_BY.get(service, service))
    user_stage = own_stage if "\nUSER " in own_stage else stage("runtime")
    (user,) = re.findall(r"^USER (\S+)$", user_stage, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_nginx_tries_every_replica() -> None:
    """The largest number of replicas is the number of upstream servers that Nginx tries."""
    assert int(stage_variables("nginx")["TRIES"]) == MAX_REPLICAS["docker"]


def test_replica_reads_the_record_of_the_model_service() -> None:
    """Replicas read the record that the service `model` writes into the shared volume."""
    server = stage_variables("server")
    settings = Settings.from_env(server)
    assert settings.model_uri == str(settings.models_dir / "current.json")
    assert stage_variables("model")["VAR_DIR"] == server["VAR_DIR"]


def substituted_names() -> set[str]:
    pattern = stage_variables("nginx")["NGINX_ENVSUBST_FILTER"]
    assert re.fullmatch(r"\^\([A-Z0-9_|]+\)\$", pattern)
    return set(pattern.strip("^()$").split("|"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_use_substituted_variables(name: str) -> None:
    """A template uses only variables that the entrypoint of Nginx's image substitutes."""
    text = without_comments((ROOT / "nginx" / name).read_text())
    assert set(re.findall(r"\$\{?([A-Z][A-Z0-9_]*)", text)) <= substituted_names()


def test_image_has_every_template() -> None:
    """Each template of Nginx is in its image."""
    copied = re.findall(r"^COPY --link nginx/(\S+) /etc/nginx/templates/(\S+)\.template$", stage("nginx"), re.MULTILINE)
    assert sorted(name for name, _ in copied) == TEMPLATES
    assert all(name in (target, "upstream-docker.conf") for name, target in copied)


def test_tls_files_are_mounted_read_only() -> None:
    """Nginx mounts certificate and key, Locust only the certificate, and all of them read-only."""
    services = yaml.safe_load(TLS)["services"]
    assert services["nginx"]["ports"] == ["${HTTP_HOST:-0.0.0.0}:${HTTPS_PORT:-443}:8443"]
    mounts = {name: service["volumes"] for name, service in services.items()}
    assert all(mount.endswith(":ro") for volumes in mounts.values() for mount in volumes)
    assert {name for name, volumes in mounts.items() if "TLS_KEY" in str(volumes)} == {"nginx"}
    assert set(mounts) == {"nginx", "locust", "locust-worker"}


def test_every_variable_of_the_templates_has_a_value() -> None:
    """Each substituted variable is used, and has a value in the image or from nginx-limits.envsh."""
    used = {
        variable
        for name in TEMPLATES
        for variable in re.findall(r"\$\{([A-Z0-9_]+)\}", without_comments((ROOT / "nginx" / name).read_text()))
    }
    exported = " ".join(
        re.findall(r"^export (.*)$", (ROOT / "deploy/images/nginx-limits.envsh").read_text(), re.MULTILINE)
    )
    assert used == substituted_names()
    assert used <= set(stage_variables("nginx")) | set(exported.split())


@pytest.mark.parametrize("lock", sorted(path.name for path in LOCKS.glob("*.txt")))
def test_locks_use_no_index_and_agree_with_dev(lock: str) -> None:
    """A lock file names no package index, which users may have to choose, and has only versions of dev.txt."""
    assert "://" not in (LOCKS / lock).read_text()
    dev_pins, lock_pins = pins(LOCKS / "dev.txt"), pins(LOCKS / lock)
    assert lock_pins
    # engines.txt also has packages for comparison, which no other environment has.
    names = {name for name in lock_pins if lock != "engines.txt" or name in dev_pins}
    assert {name: lock_pins[name] - dev_pins.get(name, set()) for name in names} == {name: set() for name in names}


def is_in_context(path: str) -> bool:
    """Return whether a path is in the build context: the last matching line of Dockerfile.dockerignore decides."""
    included = False
    for line in without_comments((ROOT / "deploy/images/Dockerfile.dockerignore").read_text()).splitlines():
        pattern = line.removeprefix("!").rstrip("/")
        parts = [path, *map(str, Path(path).parents)]
        if any(fnmatch.fnmatch(part, pattern) for part in parts if part != "."):
            included = line.startswith("!")
    return included


def copied_paths() -> list[str]:
    """Return every path of the checkout that the Dockerfile copies into an image."""
    lines = re.findall(r"^COPY (?:--(?:link|chmod=\d+) )*(?!--)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_build_context_has_copied_paths_and_no_secrets() -> None:
    """Paths that images copy exist and are in the build context, and secrets and data are not."""
    sources = copied_paths()
    assert "server" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_in_context(source), source
    for excluded in (
        ".env",
        ".git",
        "var/mlflow.db",
        "tests/unit/test_compose.py",
        "deploy/cli.py",
        ".venv/bin/python",
    ):
        assert not is_in_context(excluded), excluded


def test_model_image_has_its_imports() -> None:
    """The modules of deploy.models import only modules of `deploy` that the image `model` has."""
    modules = [source.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for source in copied_paths()]
    for path in (ROOT / "deploy/models").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deploy"):
                module = str(node.module)
                assert any(
                    module == copied or module.startswith(f"{copied}.") for copied in modules if copied != "deploy"
                ), f"{path}: {module}"


def test_server_image_needs_no_deploy() -> None:
    """The code of replicas imports nothing of `deploy`."""
    for path in [*(ROOT / "server").rglob("*.py"), ROOT / "gunicorn.conf.py"]:
        assert not re.search(r"^\s*(from|import) deploy\b", path.read_text(), re.MULTILINE), path
