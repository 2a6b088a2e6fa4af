"""The registry's services in containers: its database and object store start before MLflow."""

from __future__ import annotations

import time

from dotenv import dotenv_values

from deploy.backends.docker.engine import Compose, docker, inspect
from deploy.backends.docker.reasons import reason
from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack import registry_services
from deploy.stack.secrets import make_missing
from deploy.stack.specification import Stack

# The address of the stack's own MLflow for containers.
ADDRESS = "http://mlflow:5000"
# The name of the secret that is also stored in the data of the database.
_PASSWORD_VARIABLE = "DATABASE_PASSWORD"  # noqa: S105  (a name, not a password)
# How long a service may take to become ready; the first start of the object store on a fraction of a CPU is slowest.
_READY_TIMEOUT_SECONDS = 300


def with_secrets(compose: Compose, stack: Stack, options: Options) -> Options:
    """Return the options with the secrets of the stack's own services; generate missing ones and write them to a file.

    Raises:
        CommandError: the file cannot be written, or the database was created with a password that is missing now.
    """
    names = registry_services.secret_names(stack)
    missing = sorted(set(names) - set(options.texts(names)), key=names.index)
    if not missing:
        return options
    path = options.env_file
    if _PASSWORD_VARIABLE in missing and (volume := _database_volume(compose)):
        raise CommandError(
            f"{_PASSWORD_VARIABLE} is not in {path}, but the volume {volume} was created with one: restore the file, "
            "or delete the data with: make clean"
        )
    try:
        generated = make_missing(path, missing)
    except OSError as error:
        raise CommandError(f"cannot write secrets to {path}: {error.strerror}") from None
    if generated:
        print(f"generated {', '.join(generated)} in {path}", flush=True)
    known = {name: value for name, value in dotenv_values(path).items() if value and name in missing}
    return options.with_texts({**known, **generated})


def variables(stack: Stack, options: Options) -> dict[str, str]:
    """Return the variables of docker-compose.yml for the registry and its clients."""
    chosen = options.texts(registry_services.CLIENT_VARIABLES)
    if stack.full:
        chosen |= options.texts((*registry_services.secret_names(stack), "OBJECT_STORE_BYTES")) | stack.registry
    return chosen | {"MLFLOW_PORT": str(stack.mlflow_port)}


def up(compose: Compose, stack: Stack) -> None:
    """Run the registry's services and wait until MLflow answers.

    Raises:
        CommandError: a service did not become ready, with the reason.
    """
    own = registry_services.own_services(stack)
    stores = [service for service in own if service != registry_services.MLFLOW]
    for services in (stores, [service for service in own if service == registry_services.MLFLOW]):
        if services:
            compose.run("up", "--detach", "--no-deps", "--no-build", *services)
            _wait_ready(compose, services)


def _database_volume(compose: Compose) -> str:
    """Return the name of the database's volume, or an empty text if there is none."""
    labels = f"project={compose.config()['name']}", f"volume={registry_services.DATABASE}"
    filters = (word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}"))
    return docker("volume", "ls", "--quiet", *filters).strip()


def remove(compose: Compose, stack: Stack) -> None:
    """Stop the stack's own registry and remove its containers; its data stays."""
    compose.run("rm", "--stop", "--force", *registry_services.own_services(stack))


def _wait_ready(compose: Compose, services: list[str]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        containers = inspect([container.id for service in services for container in compose.containers(service)])
        if failed := next((c for c in containers if c.failed or c.health == "unhealthy"), None):
            raise CommandError(f"{failed.name} did not start: {reason(failed, compose)}")
        if len(containers) < len(services):
            raise CommandError("a container of the registry was removed by another process before it was ready")
        if all(container.is_ready for container in containers):
            return
        time.sleep(0.5)
    waiting = next(container for container in containers if not container.is_ready)
    raise CommandError(f"{waiting.name} was not ready within {_READY_TIMEOUT_SECONDS} s: {reason(waiting, compose)}")
