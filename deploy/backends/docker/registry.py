"""The registry's services in containers: started in their order, each well before the next, and stopped again."""

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

# Where the containers reach the stack's own MLflow.
ADDRESS = "http://mlflow:5000"
# The secret that the database keeps in its data.
_PASSWORD = "DATABASE_PASSWORD"  # noqa: S105  (its name)
# Seconds that a service may take from its start to its first answer: the store's first start, on a part of a CPU.
_READY_TIMEOUT = 300


def with_secrets(compose: Compose, stack: Stack, options: Options) -> Options:
    """Return the options with the secrets of the stack's own services, made where there are none yet.

    Raises:
        CommandError: the file for them cannot be written, or the database was made with another one.
    """
    names = registry_services.secret_names(stack)
    missing = sorted(set(names) - set(options.texts(names)), key=names.index)
    if not missing:
        return options
    path = options.env_file
    if _PASSWORD in missing and (volume := _database_volume(compose)):
        raise CommandError(
            f"{_PASSWORD} is not in {path}, and the volume {volume} was made with one: bring the file back, "
            "or delete the data with make clean"
        )
    try:
        made = make_missing(path, missing)
    except OSError as error:
        raise CommandError(f"secrets cannot be kept in {path}: {error.strerror}") from None
    if made:
        print(f"made {', '.join(made)} in {path}", flush=True)
    known = {name: value for name, value in dotenv_values(path).items() if value and name in missing}
    return options.with_texts({**known, **made})


def variables(stack: Stack, options: Options) -> dict[str, str]:
    """Return what Compose fills in for the registry, and for those who ask one."""
    chosen = options.texts(registry_services.CLIENT_VARIABLES)
    if stack.full:
        chosen |= options.texts((*registry_services.secret_names(stack), "OBJECT_STORE_BYTES")) | stack.registry
    return chosen | {"MLFLOW_PORT": str(stack.mlflow_port)}


def up(compose: Compose, stack: Stack) -> None:
    """Run the registry's services, and wait until MLflow answers.

    Raises:
        CommandError: one does not come up, with its reason.
    """
    own = registry_services.own_services(stack)
    stores = [one for one in own if one != registry_services.MLFLOW]
    for services in (stores, [one for one in own if one == registry_services.MLFLOW]):
        if services:
            compose.run("up", "--detach", "--no-deps", "--no-build", *services)
            _wait(compose, services)


def _database_volume(compose: Compose) -> str:
    """The name of the database's volume, if there is one."""
    project, volume = f"project={compose.config()['name']}", f"volume={registry_services.DATABASE}"
    filters = (part for one in (project, volume) for part in ("--filter", f"label=com.docker.compose.{one}"))
    return docker("volume", "ls", "--quiet", *filters).strip()


def remove(compose: Compose, stack: Stack) -> None:
    """Stop the stack's own registry and remove its containers; its data stays."""
    compose.run("rm", "--stop", "--force", *registry_services.own_services(stack))


def _wait(compose: Compose, services: list[str]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT
    while time.monotonic() < deadline:
        found = inspect([container.id for service in services for container in compose.containers(service)])
        if failed := next((one for one in found if one.failed or one.health == "unhealthy"), None):
            raise CommandError(f"{failed.name} did not start: {reason(failed, compose)}")
        if len(found) < len(services):
            raise CommandError("a container of the registry was removed by somebody else before it was ready")
        if all(container.well for container in found):
            return
        time.sleep(0.5)
    ill = next(container for container in found if not container.well)
    raise CommandError(f"{ill.name} was not well in {_READY_TIMEOUT} s: {reason(ill, compose)}")
