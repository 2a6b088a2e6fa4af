"""The options of a command: the environment and ``.env``, read once, each variable with its type.

The fields of the classes here are the table of variables: `docs/settings.md` is made from them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self, get_type_hints

from dotenv import dotenv_values

from deploy.errors import CommandError
from deploy.variable_types import (
    Amount,
    CpuCount,
    FilePath,
    ListOf,
    MemorySize,
    NumberList,
    OneOf,
    Switch,
    Text,
    Type,
    Variable,
    WholeNumber,
    parse,
)
from deploy.variables import (
    CREDENTIAL_VARIABLES,
    INTERNAL_VARIABLES,
    LAB_VARIABLES,
    REGISTRY_VARIABLES,
    REPLICA_VARIABLES,
)
from server.errors import SettingsError
from server.settings import ROOT, Settings

# The largest number of replicas of each backend: as many as nginx/upstream-local.conf lists, and as Nginx in a
# container tries before it gives up.
MAX_REPLICAS = {"local": 8, "docker": 16}

_PORT = WholeNumber(1, 65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a command on a stack. None, or an empty text, stands for a variable that is not set."""

    # fmt: off
    # Where the stack is.
    backend: Annotated[str, Variable(
        "BACKEND", OneOf(("auto", "docker", "local")), "`auto`: containers where an engine answers", "where it runs",
    )] = "auto"
    var_dir: Annotated[Path, Variable(
        "VAR_DIR", FilePath(), "`var`", "folder of all that a stack writes on this machine",
    )] = ROOT / "var"
    env_file: Annotated[Path, Variable(
        "ENV_FILE", FilePath(), "`.env`", "file of settings that every command reads",
    )] = ROOT / ".env"
    project: Annotated[str, Variable(
        "COMPOSE_PROJECT_NAME", Text(), "the folder's name", "Compose project of this checkout",
    )] = ""

    # What a verb is asked.
    replicas: Annotated[int | None, Variable(
        "N", WholeNumber(1, max(MAX_REPLICAS.values())), "1", "number of replicas; locally at most 8",
    )] = None
    cpus: Annotated[Amount[float] | None, Variable(
        "CPUS", CpuCount(), "1; locally no limit", "CPUs of each replica; locally whole ones", aliases=("SERVER_CPUS",),
    )] = None
    memory: Annotated[Amount[int] | None, Variable(
        "MEMORY", MemorySize(), "1G; locally no limit", "memory limit of each replica", aliases=("SERVER_MEMORY",),
    )] = None
    version: Annotated[str, Variable(
        "VERSION", Text(), "", "version of the model that `make promote` moves to",
    )] = ""
    force: Annotated[bool, Variable(
        "FORCE", Switch(), "", "promote a version with another signature, or a failing example",
    )] = False
    confirmed: Annotated[bool, Variable("YES", Switch(), "", "let `make clean` delete without asking")] = False
    service: Annotated[str, Variable(
        "S", Text("service, or `all`"), "`server`", "service whose log `make logs` shows",
    )] = "server"
    data: Annotated[Path | None, Variable(
        "DATA", FilePath(), "rows drawn at random", "CSV of rows for `make compile`, the lab and the bench",
    )] = None

    # The model.
    model_uri: Annotated[str, Variable(
        "MODEL_URI", Text("URI or folder"), "`models:/covertype@champion`", "model to serve", services=("model",),
        persistent=True,
    )] = ""
    tracking_uri: Annotated[str, Variable(
        "MLFLOW_TRACKING_URI", Text("URI"), "a SQLite file of the stack's own", "MLflow registry", services=("model",),
        persistent=True,
    )] = ""
    covertype_path: Annotated[Path | None, Variable(
        "COVERTYPE_PATH", FilePath(), "downloaded by scikit-learn", "Covertype as CSV, to train with",
        services=("model",),
    )] = None
    forest: Annotated[str, Variable(
        "FOREST", OneOf(("default", "large")), "`default`", "size of the forest to train", services=("model",),
    )] = ""

    # Where it listens.
    http_host: Annotated[str, Variable(
        "HTTP_HOST", Text("address"), "`0.0.0.0`; locally `127.0.0.1`", "address that Nginx listens on",
    )] = ""
    http_port: Annotated[int | None, Variable(
        "HTTP_PORT", _PORT, "80; locally 8080 where 80 may not be bound", "Nginx's port",
    )] = None
    https_port: Annotated[int | None, Variable(
        "HTTPS_PORT", _PORT, "443; locally 8443 where 443 may not be bound", "Nginx's port for TLS",
        services=("nginx",),
    )] = None
    locust_port: Annotated[int | None, Variable(
        "LOCUST_PORT", _PORT, "8089", "port of Locust's page, on 127.0.0.1",
    )] = None
    mlflow_port: Annotated[int | None, Variable(
        "MLFLOW_PORT", _PORT, "5000", "port of the stack's own MLflow, on 127.0.0.1",
    )] = None
    prometheus_port: Annotated[int | None, Variable(
        "PROMETHEUS_PORT", _PORT, "9090", "port of Prometheus, on 127.0.0.1",
    )] = None
    grafana_port: Annotated[int | None, Variable(
        "GRAFANA_PORT", _PORT, "3000", "port of Grafana, on 127.0.0.1",
    )] = None

    # Who may use it.
    api_keys_file: Annotated[Path | None, Variable(
        "API_KEYS_FILE", FilePath(), "no keys", "file of API keys, one a line", services=("server",), persistent=True,
    )] = None
    api_key: Annotated[str, Variable(
        "API_KEY", Text(), "the first plain key of that file", "key that the project's own clients send",
        services=("locust", "locust-worker"), secret=True,
    )] = field(default="", repr=False)
    tls_cert: Annotated[Path | None, Variable(
        "TLS_CERT", FilePath(), "no TLS", "certificate that Nginx shows, in PEM",
        services=("nginx", "locust", "locust-worker"),
    )] = None
    tls_key: Annotated[Path | None, Variable(
        "TLS_KEY", FilePath(), "no TLS", "private key of the certificate", services=("nginx",),
    )] = None
    client_requests: Annotated[int | None, Variable(
        "CLIENT_REQUESTS", WholeNumber(1, 1_000_000), "no limit", "requests a second of one client",
        services=("nginx",),
    )] = None
    client_connections: Annotated[int | None, Variable(
        "CLIENT_CONNECTIONS", _PORT, "no limit", "connections of one client with a request in work",
        services=("nginx",),
    )] = None

    # Images.
    image: Annotated[str, Variable(
        "IMAGE", Text("repository"), "built here", "published images to run, or to publish", persistent=True,
    )] = ""
    tag: Annotated[str, Variable("TAG", Text(), "`latest`", "tag of the images", persistent=True)] = ""
    extras: Annotated[tuple[str, ...], Variable(
        "EXTRAS", ListOf(("onnx", "parquet")), "none", "packages that the images have besides", persistent=True,
    )] = ()
    platforms: Annotated[str, Variable(
        "PLATFORMS", Text("list"), "`linux/amd64,linux/arm64`", "platforms to publish for",
    )] = ""
    builder: Annotated[str, Variable(
        "BUILDER", Text(), "the engine's own, or one in a container", "builder to publish with",
    )] = ""
    source: Annotated[str, Variable(
        "SOURCE", Text("address"), "the clone's origin", "address of the source, a label of the images",
    )] = ""

    # Locust's page.
    locust_workers: Annotated[int | None, Variable(
        "LOCUST_WORKERS", WholeNumber(1, 64), "1", "processes that share the users of Locust's page", persistent=True,
    )] = None
    locust_cpus: Annotated[Amount[float] | None, Variable(
        "LOCUST_CPUS", CpuCount(), "1", "CPU limit of each of them, in containers", persistent=True,
    )] = None
    locust_memory: Annotated[Amount[int] | None, Variable(
        "LOCUST_MEMORY", MemorySize(), "1G", "memory limit of each of them, in containers", persistent=True,
    )] = None
    # fmt: on

    # Kept as text: the settings of a replica, with what else a stack keeps until `make down`.
    persistent: Mapping[str, str] = field(default_factory=dict)
    # Variables that are set and empty: they are not to unlock a stack that has them.
    set_but_empty: frozenset[str] = frozenset()
    # All variables, for the environments of child processes and for nothing else.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the options from the variables of an environment.

        Raises:
            CommandError, SettingsError: naming the variable, its value and what was expected.
        """
        persistent = {one.name: environ[one.name] for one in VARIABLES if one.persistent and environ.get(one.name)}
        for name in ("MODEL_URI", "MLFLOW_TRACKING_URI"):
            if name in persistent:
                persistent[name] = _absolute_uri(persistent[name])
        values = dict(_values(cls, environ))
        if file := values.get("api_keys_file"):
            persistent["API_KEYS_FILE"] = os.path.normpath(file)
        Settings.from_env(persistent)
        set_but_empty = frozenset(name for name, text in environ.items() if not text)
        return cls(
            **values, persistent=persistent, set_but_empty=set_but_empty, environment=MappingProxyType(dict(environ))
        )

    @classmethod
    def read_leniently(cls, environ: Mapping[str, str]) -> Self:
        """Read what says where the stack is, and of the rest what can be read: enough to look at a stack or stop it.

        Raises:
            CommandError: naming a variable that says where the stack is, its value and what was expected.
        """
        return cls.read({name: text for name, text in environ.items() if name in _PLACE or _is_readable(name, text)})

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """Return those of the variables that are set, for the environment of a child process."""
        return {name: self.environment[name] for name in names if self.environment.get(name)}

    def with_texts(self, texts: Mapping[str, str]) -> Self:
        """Return the same options with more variables for child processes, such as secrets that were made now."""
        return replace(self, environment=MappingProxyType({**self.environment, **texts}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The options of a program that trains, finds, checks or compiles a model. ``settings`` are a replica's."""

    settings: Settings
    covertype_path: Path | None = None
    forest: str = "default"
    data: Path | None = None
    own_registry: str = ""
    # All variables, for the environments of child processes and for nothing else.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read COVERTYPE_PATH, FOREST, DATA, STACK_REGISTRY and the settings of a replica.

        Raises:
            CommandError, SettingsError: naming the variable, its value and what was expected.
        """
        given = dict(_values(Options, {name: environ.get(name, "") for name in ("COVERTYPE_PATH", "FOREST", "DATA")}))
        own_registry = environ.get("STACK_REGISTRY", "")
        settings = Settings.from_env(environ)
        return cls(**given, settings=settings, own_registry=own_registry, environment=MappingProxyType(dict(environ)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """The options of the registry's server. An empty text stands for a variable that is not set."""

    database_url: str = field(default="", repr=False)
    database_password: str = field(default="", repr=False)
    database_host: str = "database"
    artifacts: Path | None = None
    s3_endpoint_url: str = ""
    s3_bucket: str = "mlflow"
    s3_region: str = "us-east-1"
    s3_access_key_id: str = field(default="", repr=False)
    s3_secret_access_key: str = field(default="", repr=False)
    host: str = "127.0.0.1"
    port: int = 5000
    allowed_hosts: str = ""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables of the fields' names in capitals.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        types: dict[str, Type[Any]] = {"artifacts": FilePath(), "port": _PORT}
        named = {one.name: one.name.upper() for one in fields(cls)}
        texts = {name: environ[variable] for name, variable in named.items() if environ.get(variable)}
        return cls(**{name: parse(named[name], text, types.get(name, Text())) for name, text in texts.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The options of `make bench`. None stands for a variable that is not set."""

    # fmt: off
    quick: Annotated[bool, Variable("QUICK", Switch(), "", "one engine, one worker, short rows")] = False
    workers: Annotated[tuple[int, ...] | None, Variable(
        "WORKERS", NumberList(64), "`1 2 4`", "numbers of workers",
    )] = None
    connections: Annotated[tuple[int, ...] | None, Variable(
        "CONNECTIONS", NumberList(10_000), "`1 64 512`", "numbers of connections",
    )] = None
    seconds: Annotated[int | None, Variable(
        "BENCH_SECONDS", WholeNumber(1, 3600), "6", "length of a row of the table",
    )] = None
    data: Annotated[Path | None, Variable("DATA", FilePath(), "rows drawn at random", "CSV of rows to ask for")] = None
    # fmt: on

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read QUICK, WORKERS, CONNECTIONS, BENCH_SECONDS and DATA.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        return cls(**dict(_values(cls, environ)))


@cache
def _declared(options: Any) -> dict[str, Variable]:
    """Return the variable of each field that has one."""
    hints = get_type_hints(options, include_extras=True)
    return {
        name: one
        for name, hint in hints.items()
        for one in getattr(hint, "__metadata__", ())
        if isinstance(one, Variable)
    }


# The lab has WORKERS and DATA, too.
BENCH_VARIABLES = tuple(one for one in _declared(BenchOptions).values() if one.name not in ("WORKERS", "DATA"))


_OF_STACKS = (*_declared(Options).values(), *REPLICA_VARIABLES, *REGISTRY_VARIABLES, *CREDENTIAL_VARIABLES)
# All variables that people set, in the order in which documentation lists them.
VARIABLES = (*_OF_STACKS, *LAB_VARIABLES, *BENCH_VARIABLES)
# All that docker-compose.yml may ask for: what it gets is what a verb fills in, and no value of the user's shell.
COMPOSE_VARIABLES = (*(name for one in _OF_STACKS for name in (one.name, *one.aliases)), *INTERNAL_VARIABLES)


# What says where a stack is.
_PLACE = ("BACKEND", "VAR_DIR", "ENV_FILE", "COMPOSE_PROJECT_NAME")


def _is_readable(name: str, text: str) -> bool:
    try:
        Options.read({name: text})
    except (CommandError, SettingsError):
        return False
    return True


def env_file(environ: Mapping[str, str]) -> Path:
    """Return the file of settings for every command: ``.env`` in the checkout, unless ENV_FILE names another."""
    return parse("ENV_FILE", environ.get("ENV_FILE") or ".env", FilePath())


def read_environment() -> dict[str, str]:
    """Return the variables of this process over those of the file of settings.

    Raises:
        CommandError: the file is not UTF-8.
    """
    path = env_file(os.environ)
    try:
        return {name: value for name, value in dotenv_values(path, encoding="utf-8-sig").items() if value} | os.environ
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8") from None


def _values(options: Any, environ: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each field whose variable is set."""
    for field_name, variable in _declared(options).items():
        if (read := variable.read(environ)) is not None:
            name, value = read
            is_amount = isinstance(variable.type, CpuCount | MemorySize)
            yield field_name, Amount(name, environ[name], value) if is_amount else value


def mask_password(uri: str) -> str:
    """Return an address without the password that it may hold, for messages."""
    return re.sub(r"(//[^/@:]*:)[^/@]*@", r"\1***@", uri)


def _absolute_uri(uri: str) -> str:
    """Return a relative path, or SQLite file, as seen from the checkout: the stack works elsewhere."""
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{ROOT / uri.removeprefix('sqlite:///')}"
    return uri if ":" in uri else str(ROOT / uri)
