"""A stack as the variables of `docker-compose.yml`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from deploy.backends.docker.engine import MONITORING_SERVICES, engine_cpus
from deploy.errors import CommandError
from deploy.options import Options, mask_password
from deploy.stack import registry_services
from deploy.stack.specification import Stack
from server.model_store.resolve import local_folder
from server.settings import Settings

DEFAULT = Stack(http_host="0.0.0.0", http_port=80, cpus=1, memory="1G", backend="docker")  # noqa: S104

# The lowest limits that the engine accepts.
_MIN_MEMORY_BYTES = 6 << 20
_MIN_CPUS = 0.01
# How long after a replica's graceful timeout the engine kills it.
_STOP_MARGIN_SECONDS = 15


def check_reachable(stack: Stack) -> None:
    """Refuse a registry or a model that containers cannot reach.

    Raises:
        CommandError: the message names the variable, its value and what was expected.
    """
    _check_registry(stack.tracking_uri)
    _check_model(stack.model_uri)


def with_limits(stack: Stack, options: Options) -> Stack:
    """Return the stack with the CPU and memory limits per replica that the options ask for.

    Raises:
        CommandError: the message names the variable, its value and what was expected.
    """
    cpus, memory = options.cpus, options.memory
    max_cpus = engine_cpus() if cpus else 0
    if cpus and not _MIN_CPUS <= cpus.value <= max_cpus:
        raise CommandError(
            f"{cpus.variable}={cpus.text!r}: expected a number of CPUs from {_MIN_CPUS} to {max_cpus}, such as 0.5"
        )
    if memory and memory.value < _MIN_MEMORY_BYTES:
        raise CommandError(f"{memory.variable}={memory.text!r}: expected a size of at least 6M, such as 512M or 1.5G")
    return replace(
        stack,
        cpus=cpus.value if cpus else stack.cpus,
        memory=memory.text.upper() if memory else stack.memory,
    )


def variables(stack: Stack) -> dict[str, str]:
    """Return the variables of `docker-compose.yml` for this stack."""
    settings = Settings.from_env(stack.environment)
    uri = stack.model_uri
    profiles = (*registry_services.own_services(stack), *(MONITORING_SERVICES if stack.monitoring else ()))
    chosen = {
        "SERVER_CPUS": f"{stack.cpus:g}",
        "SERVER_MEMORY": stack.memory or "",
        "STOP_GRACE_PERIOD": f"{settings.graceful_timeout + _STOP_MARGIN_SECONDS}s",
        "HTTP_HOST": stack.http_host,
        "HTTP_PORT": str(stack.http_port),
        "LOCUST_PORT": str(stack.locust_port),
        "PROMETHEUS_PORT": str(stack.prometheus_port),
        "GRAFANA_PORT": str(stack.grafana_port),
        "COMPOSE_PROFILES": ",".join(profiles),
        "MODEL_FOLDER": str(local_folder(uri) or "") if uri else "",
    }
    return {name: value for name, value in (stack.environment | chosen).items() if value}


def training_variables(options: Options) -> dict[str, str]:
    """Return the additional variables of services that may train a model.

    Raises:
        CommandError: COVERTYPE_PATH does not name a file that a container can mount.
    """
    path = mountable_file("COVERTYPE_PATH", options.covertype_path)
    return ({"COVERTYPE_PATH": str(path)} if path else {}) | ({"FOREST": options.forest} if options.forest else {})


def mountable_file(name: str, path: Path | None) -> Path | None:
    """Return the absolute path of a file that the variable ``name`` holds, or None if it holds none.

    Raises:
        CommandError: there is no such file, or its path cannot be mounted.
    """
    if path is None:
        return None
    if not path.is_file():
        raise CommandError(f"{name}={str(path)!r}: there is no such file")
    return Path(mountable_path(name, path.resolve()))


def _check_model(uri: str) -> None:
    """Refuse a folder of this machine that is not an MLflow model or cannot be mounted."""
    folder = local_folder(uri) if uri else None
    if folder is None:
        return
    mountable_path("MODEL_URI", folder)
    if not (folder / "MLmodel").is_file():
        raise CommandError(f"MODEL_URI={uri!r}: there is no MLflow model in that folder (no file MLmodel)")


def mountable_path(name: str, path: Path) -> str:
    """Return a path as a text, or refuse it if Docker's short syntax of a mount cannot express it."""
    if ":" in str(path) or not path.is_absolute():
        raise CommandError(
            f"{name}={str(path)!r}: expected an absolute path without a colon, so that a container can mount it"
        )
    return str(path)


def _check_registry(uri: str) -> None:
    """Refuse a registry that only this machine itself can reach; the message says how containers can reach it."""
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(uri)!r}: {error}; expected a URL such as http://mlflow:5000"
        ) from None
    if parts.hostname in ("127.0.0.1", "localhost", "::1"):
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(uri)!r}: inside a container this address is the container itself; use "
            f"{parts.scheme}://host.docker.internal{port}, with MLflow listening on 0.0.0.0 and that name among its "
            "--allowed-hosts, or BACKEND=local"
        )
    if uri and not parts.hostname:
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(uri)!r}: containers cannot reach a database or a folder of "
            "this machine; serve it with `mlflow server`, or use BACKEND=local"
        )
