"""A stack as the variables that `docker-compose.yml` asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from deploy.backends.docker.engine import MONITORING, engine_cpus
from deploy.errors import CommandError
from deploy.options import Options, mask_password
from deploy.stack import registry_services
from deploy.stack.specification import Stack
from server.model_store.resolve import local_folder
from server.settings import Settings

DEFAULT = Stack(http_host="0.0.0.0", http_port=80, cpus=1, memory="1G", backend="docker")  # noqa: S104

# The engine's own least.
_LEAST_MEMORY = 6 << 20
_LEAST_CPUS = 0.01
# Seconds from the end of a replica's own patience to the engine's.
_GRACE = 15


def check(stack: Stack) -> None:
    """Refuse a registry or a model that no container could reach.

    Raises:
        CommandError: naming the variable, its value and what was expected.
    """
    _check_registry(stack.tracking_uri)
    _check_model(stack.model_uri)


def limited(before: Stack, options: Options) -> Stack:
    """Return the stack with the CPUs and memory that the options hold each replica to.

    Raises:
        CommandError: naming the variable, its value and what was expected.
    """
    cpus, memory = options.cpus, options.memory
    most = engine_cpus() if cpus else 0
    if cpus and not _LEAST_CPUS <= cpus.value <= most:
        raise CommandError(
            f"{cpus.variable}={cpus.text!r}: expected a number of CPUs from {_LEAST_CPUS} to {most}, such as 0.5"
        )
    if memory and memory.value < _LEAST_MEMORY:
        raise CommandError(f"{memory.variable}={memory.text!r}: expected a size of at least 6M, such as 512M or 1.5G")
    return replace(
        before,
        cpus=cpus.value if cpus else before.cpus,
        memory=memory.text.upper() if memory else before.memory,
    )


def variables(stack: Stack) -> dict[str, str]:
    """What Compose is to fill in."""
    settings = Settings.from_env(stack.environment)
    uri = stack.model_uri
    profiles = (*registry_services.own_services(stack), *(MONITORING if stack.monitoring else ()))
    chosen = {
        "SERVER_CPUS": f"{stack.cpus:g}",
        "SERVER_MEMORY": stack.memory or "",
        "STOP_GRACE_PERIOD": f"{settings.graceful_timeout + _GRACE}s",
        "HTTP_HOST": stack.http_host,
        "HTTP_PORT": str(stack.http_port),
        "LOCUST_PORT": str(stack.locust_port),
        "PROMETHEUS_PORT": str(stack.prometheus_port),
        "GRAFANA_PORT": str(stack.grafana_port),
        "COMPOSE_PROFILES": ",".join(profiles),
        "MODEL_FOLDER": str(local_folder(uri) or "") if uri else "",
    }
    return {name: value for name, value in (stack.environment | chosen).items() if value}


def data(options: Options) -> dict[str, str]:
    """Return what the commands that may train fill in besides.

    Raises:
        CommandError: COVERTYPE_PATH names no file.
    """
    path = file("COVERTYPE_PATH", options.covertype_path)
    return ({"COVERTYPE_PATH": str(path)} if path else {}) | ({"FOREST": options.forest} if options.forest else {})


def file(name: str, path: Path | None) -> Path | None:
    """Return the file of this machine that a variable names, if it names one, as a container can see it.

    Raises:
        CommandError: there is no such file, or no container could see it.
    """
    if path is None:
        return None
    if not path.is_file():
        raise CommandError(f"{name}={str(path)!r}: there is no such file")
    return Path(mountable(name, path.resolve()))


def _check_model(uri: str) -> None:
    """A folder of this machine is a model's, and can be mounted."""
    folder = local_folder(uri) if uri else None
    if folder is None:
        return
    mountable("MODEL_URI", folder)
    if not (folder / "MLmodel").is_file():
        raise CommandError(f"MODEL_URI={uri!r}: there is no MLflow model in that folder (no file MLmodel)")


def mountable(name: str, path: Path) -> str:
    """A path as Docker's short form of a mount takes it."""
    if ":" in str(path) or not path.is_absolute():
        raise CommandError(f"{name}={str(path)!r}: expected a whole path without a colon, for a container to see it")
    return str(path)


def _check_registry(uri: str) -> None:
    """Not one that only the host itself can reach: say what reaches it from a container."""
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(uri)!r}: {error}; expected http://mlflow:5000 or alike"
        ) from None
    if parts.hostname in ("127.0.0.1", "localhost", "::1"):
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(uri)!r}: in a container that is the container itself; use "
            f"{parts.scheme}://host.docker.internal{port}, with MLflow listening on 0.0.0.0 and that name among its "
            "--allowed-hosts, or BACKEND=local"
        )
    if uri and not parts.hostname:
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(uri)!r}: a database or a folder of this machine is not seen in a "
            "container; serve it with `mlflow server`, or use BACKEND=local"
        )
