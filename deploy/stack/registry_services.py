"""The registry stack (`make up-full`): which services it has, where it is, and what the user brings along."""

from __future__ import annotations

from dataclasses import replace

from deploy.errors import CommandError
from deploy.options import Options, mask_password
from deploy.stack.specification import Stack
from deploy.variables import CREDENTIAL_VARIABLES

MLFLOW, DATABASE, OBJECT_STORE = "mlflow", "database", "object-store"
SERVICES = (DATABASE, OBJECT_STORE, MLFLOW)
# The variable by which the trainer knows a registry that is the stack's own: it may train into it while it is empty.
OWN_REGISTRY_VARIABLE = "STACK_REGISTRY"

# What names a database or a store of somebody else's, with the keys to it.
EXTERNAL_VARIABLES = {
    DATABASE: ("DATABASE_URL",),
    OBJECT_STORE: ("S3_ENDPOINT_URL", "S3_BUCKET", "S3_REGION", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"),
}
# What has to be kept secret of the stack's own ones.
SECRET_VARIABLES = {
    DATABASE: ("DATABASE_PASSWORD",),
    OBJECT_STORE: ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"),
}
# For clients of registries that ask for a name, and of artifacts that are in S3 without a proxy before them.
CLIENT_VARIABLES = tuple(one.name for one in CREDENTIAL_VARIABLES)
# What the servers alone need to know: the replicas' processes are not given it.
SERVER_ONLY_VARIABLES = frozenset({"DATABASE_URL", *EXTERNAL_VARIABLES[OBJECT_STORE], *SECRET_VARIABLES[DATABASE]})


def with_registry(stack: Stack, options: Options, address: str, *, full: bool) -> Stack:
    """The stack with the registry that the command asks for, or that it has already.

    ``address`` is where clients reach its MLflow, with ``{port}`` in place of the port that this machine sees.

    Raises:
        CommandError: the settings name another registry, or half of a store.
    """
    if not (full or stack.full):
        return stack
    port = options.mlflow_port or stack.mlflow_port
    own = address.format(port=port)
    if (other := options.tracking_uri) and other != own:
        raise CommandError(
            f"MLFLOW_TRACKING_URI={mask_password(other)!r} names another registry than the stack's own, {own}: "
            "leave it out, or use make up (after make down, where make up-full has run)"
        )
    environment = {**stack.environment, "MLFLOW_TRACKING_URI": own}
    return replace(stack, full=True, mlflow_port=port, environment=environment, registry=_external(stack, options))


def _external(stack: Stack, options: Options) -> dict[str, str]:
    """What the user names now goes over what was named before."""
    named = dict(stack.registry)
    for names in EXTERNAL_VARIABLES.values():
        if (given := options.texts(names)).get(names[0]) or names[0] in named:
            named |= given
    if "S3_ENDPOINT_URL" in named:
        for name in ("S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"):
            if name not in named:
                raise CommandError(f"{name} is missing: S3_ENDPOINT_URL names a store, and not what to do there")
    return named


def own_services(stack: Stack) -> tuple[str, ...]:
    """The registry's services that are the stack's own, in the order in which they start; none where it has none."""
    if not stack.full:
        return ()
    return tuple(one for one in SERVICES if EXTERNAL_VARIABLES.get(one, ("",))[0] not in stack.registry)


def secret_names(stack: Stack) -> tuple[str, ...]:
    """The names of the secrets that its own services need."""
    return tuple(name for service in own_services(stack) for name in SECRET_VARIABLES.get(service, ()))


def mlflow_address(stack: Stack) -> str:
    """Where a browser on this machine finds MLflow."""
    return f"http://127.0.0.1:{stack.mlflow_port}"
