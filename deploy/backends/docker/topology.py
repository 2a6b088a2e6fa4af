"""A stack as the variables that `docker-compose.yml` asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from deploy.backends.docker.engine import MONITORING, engine_cpus
from deploy.errors import CommandError
from deploy.stack import registry_services
from deploy.stack.paths import at
from deploy.stack.specification import Stack
from server.model_store.resolve import local_folder
from server.settings import Settings

DEFAULT = Stack(http_host="0.0.0.0", http_port=80, cpus=1, memory="1G", backend="docker")  # noqa: S104

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(?:B|([KMG])B?)?", re.ASCII)
_UNITS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# The engine's own least.
_LEAST_MEMORY = 6 << 20
_LEAST_CPUS = 0.01
# Seconds from the end of a replica's own patience to the engine's.
_GRACE = 15


def requested(before: Stack, environ: Mapping[str, str]) -> Stack:
    """The stack with what the command line or ``.env`` asks for.

    Raises:
        CommandError, SettingsError: naming the variable, its value and what was expected.
    """
    stack = limited(before.changed(environ), environ)
    _check_registry(stack.environment.get("MLFLOW_TRACKING_URI", ""))
    _check_model(stack.environment.get("MODEL_URI", ""))
    return stack


def limited(before: Stack, environ: Mapping[str, str]) -> Stack:
    """The stack with what CPUS and MEMORY, or SERVER_CPUS and SERVER_MEMORY, hold each replica to.

    Raises:
        CommandError: naming the variable, its value and what was expected.
    """
    cpus, memory = (_first(environ, name, f"SERVER_{name}") for name in ("CPUS", "MEMORY"))
    return replace(
        before,
        cpus=_cpus(*cpus) if cpus else before.cpus,
        memory=_memory(*memory) if memory else before.memory,
    )


def variables(stack: Stack) -> dict[str, str]:
    """What Compose is to fill in."""
    settings = Settings.from_env(stack.environment)
    uri = stack.environment.get("MODEL_URI", "")
    profiles = (*registry_services.services(stack), *(MONITORING if stack.monitoring else ()))
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


def data(environ: Mapping[str, str]) -> dict[str, str]:
    """What the commands that may train are to fill in besides.

    Raises:
        CommandError: COVERTYPE_PATH names no file.
    """
    path = file("COVERTYPE_PATH", environ)
    given = {"COVERTYPE_PATH": str(path) if path else "", "FOREST": environ.get("FOREST", "")}
    return {name: value for name, value in given.items() if value}


def file(name: str, environ: Mapping[str, str]) -> Path | None:
    """The file of this machine that a variable names, if it names one.

    Raises:
        CommandError: there is no such file, or no container could see it.
    """
    given = environ.get(name)
    if not given:
        return None
    path = at(name, given)
    if not path.is_file():
        raise CommandError(f"{name}={given!r}: there is no such file")
    return Path(mountable(name, path.resolve()))


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str] | None:
    return next(((name, environ[name]) for name in names if environ.get(name)), None)


def _cpus(name: str, value: str) -> float:
    most = engine_cpus()
    if not re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII) or not _LEAST_CPUS <= float(value) <= most:
        raise CommandError(f"{name}={value!r}: expected a number of CPUs from {_LEAST_CPUS} to {most}, as 0.5")
    return float(value)


def _memory(name: str, value: str) -> str:
    match = _MEMORY.fullmatch(value.upper())
    if not match or float(match[1]) * _UNITS[match[2]] < _LEAST_MEMORY:
        raise CommandError(f"{name}={value!r}: expected a size of at least 6M, as 512M or 1.5G")
    return value.upper()


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
        raise CommandError(f"MLFLOW_TRACKING_URI={uri!r}: {error}; expected http://mlflow:5000 or alike") from None
    if parts.hostname in ("127.0.0.1", "localhost", "::1"):
        raise CommandError(
            f"MLFLOW_TRACKING_URI={uri!r}: in a container that is the container itself; use "
            f"{parts.scheme}://host.docker.internal{port}, with MLflow listening on 0.0.0.0 and that name among its "
            "--allowed-hosts, or BACKEND=local"
        )
    if uri and not parts.hostname:
        raise CommandError(
            f"MLFLOW_TRACKING_URI={uri!r}: a database or a folder of this machine is not seen in a container; "
            "serve it with `mlflow server`, or use BACKEND=local"
        )
