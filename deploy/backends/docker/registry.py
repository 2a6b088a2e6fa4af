"""The registry's services in containers: started in their order, each well before the next, and stopped again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from dotenv import dotenv_values

from deploy.backends.docker.engine import Compose, docker, inspect
from deploy.backends.docker.reasons import reason
from deploy.errors import CommandError
from deploy.stack import registry_services
from deploy.stack.paths import at
from deploy.stack.secrets import make_missing
from deploy.stack.specification import Stack

# Where the containers reach the stack's own MLflow.
ADDRESS = "http://mlflow:5000"
# The secret that the database keeps in its data.
_PASSWORD = "DATABASE_PASSWORD"  # noqa: S105  (its name)
# Seconds that a service may take from its start to its first answer: the store's first start, on a part of a CPU.
_READY_TIMEOUT = 300


def secrets(compose: Compose, stack: Stack, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with the secrets of the stack's own services, made where there are none yet.

    Raises:
        CommandError: the file for them cannot be written, or the database was made with another one.
    """
    missing = [name for name in registry_services.secrets(stack) if not environ.get(name)]
    if not missing:
        return dict(environ)
    path = at("ENV_FILE", environ.get("ENV_FILE") or ".env")
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
    return {**environ, **known, **made}


def variables(stack: Stack, environ: Mapping[str, str]) -> dict[str, str]:
    """What Compose is to fill in for the registry, and for those who ask one."""
    chosen = {name: environ.get(name, "") for name in registry_services.CLIENT}
    if stack.full:
        chosen |= {name: environ.get(name, "") for name in (*registry_services.secrets(stack), "OBJECT_STORE_BYTES")}
        chosen |= stack.registry
    chosen["MLFLOW_PORT"] = str(stack.mlflow_port)
    return {name: value for name, value in chosen.items() if value}


def up(compose: Compose, stack: Stack) -> None:
    """Run the registry's services, and wait until MLflow answers.

    Raises:
        CommandError: one does not come up, with its reason.
    """
    own = registry_services.services(stack)
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


@contextmanager
def stopped_on_failure(compose: Compose, stack: Stack, before: Stack | None) -> Iterator[None]:
    """Where a stack had no registry of its own before, it has none after a failure; its data stays."""
    try:
        yield
    except BaseException:
        if stack.full and before is not None and not before.full:
            with suppress(CommandError):  # the reason is the first one
                compose.run("rm", "--stop", "--force", *registry_services.services(stack))
        raise


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
