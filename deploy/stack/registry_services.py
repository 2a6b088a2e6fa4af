"""The registry of a full stack (`make up-full`): its services, its address, and external services in place of them."""

from __future__ import annotations

from dataclasses import replace

from deploy.errors import CommandError
from deploy.options import Options, mask_password
from deploy.stack.specification import Stack
from deploy.variables import CREDENTIAL_VARIABLES

MLFLOW, DATABASE, OBJECT_STORE = "mlflow", "database", "object-store"
SERVICES = (DATABASE, OBJECT_STORE, MLFLOW)
# The variable that tells the trainer the URI of the stack's own registry. Only there may it train the first model.
OWN_REGISTRY_VARIABLE = "STACK_REGISTRY"

# The variables of an external database or object store. The first of each is the one that turns it on.
EXTERNAL_VARIABLES = {
    DATABASE: ("DATABASE_URL",),
    OBJECT_STORE: ("S3_ENDPOINT_URL", "S3_BUCKET", "S3_REGION", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"),
}
# The secrets of the stack's own database and object store.
SECRET_VARIABLES = {
    DATABASE: ("DATABASE_PASSWORD",),
    OBJECT_STORE: ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"),
}
# The credentials of registry clients.
CLIENT_VARIABLES = tuple(variable.name for variable in CREDENTIAL_VARIABLES)
# Variables that only the services of the registry need. They must not reach the processes of replicas.
SERVER_ONLY_VARIABLES = frozenset({"DATABASE_URL", *EXTERNAL_VARIABLES[OBJECT_STORE], *SECRET_VARIABLES[DATABASE]})


def with_registry(stack: Stack, options: Options, address: str, *, full: bool) -> Stack:
    """Return the stack with its own registry if ``full`` or if it has one, otherwise unchanged.

    ``address`` is the address of its MLflow for clients, with ``{port}`` for the port on this machine.

    Raises:
        CommandError: the settings name another registry, or an external store without its bucket or keys.
    """
    if not (full or stack.full):
        return stack
    port = options.mlflow_port or stack.mlflow_port
    own = address.format(port=port)
    if (uri := options.tracking_uri) and uri != own:
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(uri)!r} names another registry than the stack's own, {own}: "
            "unset it, or use make up instead of make up-full (run make down first if the stack is up)"
        )
    environment = {**stack.environment, "MLFLOW_TRACKING_URI": own}
    return replace(stack, full=True, mlflow_port=port, environment=environment, registry=_external(stack, options))


def _external(stack: Stack, options: Options) -> dict[str, str]:
    """Return the variables of external services: those of earlier commands, overridden by those of this one."""
    external = dict(stack.registry)
    for names in EXTERNAL_VARIABLES.values():
        if (texts := options.texts(names)).get(names[0]) or names[0] in external:
            external |= texts
    if "S3_ENDPOINT_URL" in external:
        for name in ("S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"):
            if name not in external:
                raise CommandError(
                    f"{name} is missing: an external object store (S3_ENDPOINT_URL) needs a bucket and an access key"
                )
    return external


def own_services(stack: Stack) -> tuple[str, ...]:
    """Return the services of the registry that the stack runs itself, in the order of their start."""
    if not stack.full:
        return ()
    return tuple(service for service in SERVICES if EXTERNAL_VARIABLES.get(service, ("",))[0] not in stack.registry)


def secret_names(stack: Stack) -> tuple[str, ...]:
    """Return the names of the secrets that these services need."""
    return tuple(name for service in own_services(stack) for name in SECRET_VARIABLES.get(service, ()))


def mlflow_address(stack: Stack) -> str:
    """Return the address of MLflow for a browser on this machine."""
    return f"http://127.0.0.1:{stack.mlflow_port}"
