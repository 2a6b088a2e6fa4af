"""The options of a command, read once from the environment and ``.env``, each variable with its type.

`docs/settings.md` is generated from the fields of these classes and from :mod:`deploy.variables`.
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

# The largest number of replicas by backend. Local: the number of servers in nginx/upstream-local.conf. Docker: the
# number of upstream servers that Nginx tries before it gives up on a request.
MAX_REPLICAS = {"local": 8, "docker": 16}

_PORT = WholeNumber(1, 65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a command on a stack. None, or an empty text, stands for a variable that is not set."""

    # fmt: off
    # The stack.
    backend: Annotated[str, Variable(
        "BACKEND", OneOf(("auto", "docker", "local")), "`auto`: `docker` if a Docker engine answers, otherwise `local`",
        "where the stack runs: in containers, or as processes of this machine",
    )] = "auto"
    var_dir: Annotated[Path, Variable(
        "VAR_DIR", FilePath(), "`var`", "folder for all files that the stack writes on this machine",
    )] = ROOT / "var"
    env_file: Annotated[Path, Variable(
        "ENV_FILE", FilePath(), "`.env`", "file of settings that every command reads",
    )] = ROOT / ".env"
    project: Annotated[str, Variable(
        "COMPOSE_PROJECT_NAME", Text(), "the name of the checkout's folder",
        "Compose project, whose name is part of the names of containers and volumes",
    )] = ""

    # Arguments of verbs.
    replicas: Annotated[int | None, Variable(
        "N", WholeNumber(1, max(MAX_REPLICAS.values())), "1", "number of replicas; at most 8 with `BACKEND=local`",
    )] = None
    cpus: Annotated[Amount[float] | None, Variable(
        "CPUS", CpuCount(), "1; no limit with `BACKEND=local`",
        "CPU limit of each replica; a whole number with `BACKEND=local`", aliases=("SERVER_CPUS",),
    )] = None
    memory: Annotated[Amount[int] | None, Variable(
        "MEMORY", MemorySize(), "1G; no limit with `BACKEND=local`", "memory limit of each replica",
        aliases=("SERVER_MEMORY",),
    )] = None
    version: Annotated[str, Variable(
        "VERSION", Text(), "", "model version that `make promote` moves to",
    )] = ""
    force: Annotated[bool, Variable(
        "FORCE", Switch(), "0", "1: promote a version even if its signature differs",
    )] = False
    confirmed: Annotated[bool, Variable("YES", Switch(), "0", "1: `make clean` deletes without asking")] = False
    service: Annotated[str, Variable(
        "S", Text("service, or `all`"), "`server`", "service whose log `make logs` shows",
    )] = "server"
    data: Annotated[Path | None, Variable(
        "DATA", FilePath(), "random rows", "CSV file of rows for `make compile`, the scaling lab and the benchmark",
    )] = None

    # The model.
    model_uri: Annotated[str, Variable(
        "MODEL_URI", Text("URI or folder"), "`models:/covertype@champion`", "MLflow model to serve",
        services=("model",), persistent=True,
    )] = ""
    tracking_uri: Annotated[str, Variable(
        "MLFLOW_TRACKING_URI", Text("URI"), "a SQLite file of the stack", "MLflow server or database with the registry",
        services=("model",), persistent=True,
    )] = ""
    covertype_path: Annotated[Path | None, Variable(
        "COVERTYPE_PATH", FilePath(), "downloaded by scikit-learn", "Covertype data set as CSV, for `make train`",
        services=("model",),
    )] = None
    forest: Annotated[str, Variable(
        "FOREST", OneOf(("default", "large")), "`default`", "size of the random forest that `make train` fits",
        services=("model",),
    )] = ""

    # Addresses and ports.
    http_host: Annotated[str, Variable(
        "HTTP_HOST", Text("address"), "`0.0.0.0`; `127.0.0.1` with `BACKEND=local`", "address that Nginx listens on",
    )] = ""
    http_port: Annotated[int | None, Variable(
        "HTTP_PORT", _PORT, "80; 8080 with `BACKEND=local` if this user may not listen on 80", "HTTP port of Nginx",
    )] = None
    https_port: Annotated[int | None, Variable(
        "HTTPS_PORT", _PORT, "443; 8443 with `BACKEND=local` if this user may not listen on 443",
        "HTTPS port of Nginx, used with `TLS_CERT`", services=("nginx",),
    )] = None
    locust_port: Annotated[int | None, Variable(
        "LOCUST_PORT", _PORT, "8089", "port of Locust's web page, on 127.0.0.1",
    )] = None
    mlflow_port: Annotated[int | None, Variable(
        "MLFLOW_PORT", _PORT, "5000", "port of the MLflow that `make up-full` starts, on 127.0.0.1",
    )] = None
    prometheus_port: Annotated[int | None, Variable(
        "PROMETHEUS_PORT", _PORT, "9090", "port of Prometheus, on 127.0.0.1",
    )] = None
    grafana_port: Annotated[int | None, Variable(
        "GRAFANA_PORT", _PORT, "3000", "port of Grafana, on 127.0.0.1",
    )] = None

    # Protection.
    api_keys_file: Annotated[Path | None, Variable(
        "API_KEYS_FILE", FilePath(), "no key is needed", "file of the API keys that clients may use, one per line",
        services=("server",), persistent=True,
    )] = None
    api_key: Annotated[str, Variable(
        "API_KEY", Text(), "the first plain key in `API_KEYS_FILE`",
        "API key that Forkcast's own clients send: the verbs, Locust and the scaling lab",
        services=("locust", "locust-worker"), secret=True,
    )] = field(default="", repr=False)
    tls_cert: Annotated[Path | None, Variable(
        "TLS_CERT", FilePath(), "no TLS", "certificate (chain) that Nginx sends to clients, in PEM",
        services=("nginx", "locust", "locust-worker"),
    )] = None
    tls_key: Annotated[Path | None, Variable(
        "TLS_KEY", FilePath(), "no TLS", "private key of `TLS_CERT`, in PEM, without a passphrase",
        services=("nginx",),
    )] = None
    client_requests: Annotated[int | None, Variable(
        "CLIENT_REQUESTS", WholeNumber(1, 1_000_000), "no limit",
        "requests per second from one client address; more are answered with 429", services=("nginx",),
    )] = None
    client_connections: Annotated[int | None, Variable(
        "CLIENT_CONNECTIONS", _PORT, "no limit",
        "requests in progress at once from one client address; more are answered with 429", services=("nginx",),
    )] = None

    # Images.
    image: Annotated[str, Variable(
        "IMAGE", Text("repository"), "images are built from this checkout",
        "prefix of the image names to run, or to publish, such as `registry/name`", persistent=True,
    )] = ""
    tag: Annotated[str, Variable("TAG", Text(), "`latest`", "tag of the images", persistent=True)] = ""
    extras: Annotated[tuple[str, ...], Variable(
        "EXTRAS", ListOf(("onnx", "parquet")), "none",
        "optional packages in the images: the engine `onnx`, requests in Parquet", persistent=True,
    )] = ()
    platforms: Annotated[str, Variable(
        "PLATFORMS", Text("list"), "`linux/amd64,linux/arm64`", "platforms that `make publish` builds for",
    )] = ""
    builder: Annotated[str, Variable(
        "BUILDER", Text(), "the engine's own; in a container if the engine stores one platform only",
        "buildx builder that `make publish` uses",
    )] = ""
    source: Annotated[str, Variable(
        "SOURCE", Text("address"), "the clone's origin", "address of the source code, for a label of the images",
    )] = ""

    # Locust's web page.
    locust_workers: Annotated[int | None, Variable(
        "LOCUST_WORKERS", WholeNumber(1, 64), "1", "processes that generate the load of Locust's web page",
        persistent=True,
    )] = None
    locust_cpus: Annotated[Amount[float] | None, Variable(
        "LOCUST_CPUS", CpuCount(), "1", "CPU limit of each of these processes, in containers", persistent=True,
    )] = None
    locust_memory: Annotated[Amount[int] | None, Variable(
        "LOCUST_MEMORY", MemorySize(), "1G", "memory limit of each of these processes, in containers", persistent=True,
    )] = None
    # fmt: on

    # The variables, as text, that the stack keeps until `make down`: the settings of replicas and a few others.
    persistent: Mapping[str, str] = field(default_factory=dict)
    # Names of variables that are set to an empty text. They must not switch off the protection of a running stack.
    set_but_empty: frozenset[str] = frozenset()
    # All variables. Use them only for the environments of child processes.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the options from the variables of an environment.

        Raises:
            CommandError, SettingsError: a value is invalid; the message names the variable, its value and what was
                expected.
        """
        persistent = {
            variable.name: environ[variable.name]
            for variable in VARIABLES
            if variable.persistent and environ.get(variable.name)
        }
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
        """Read the options and skip invalid values, so that a stack can always be inspected and stopped.

        Raises:
            CommandError: the value of a variable that locates the stack, such as VAR_DIR, is invalid.
        """
        return cls.read(
            {name: text for name, text in environ.items() if name in _LOCATING_VARIABLES or _is_readable(name, text)}
        )

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """Return the variables with these names that are set, for the environment of a child process."""
        return {name: self.environment[name] for name in names if self.environment.get(name)}

    def with_texts(self, texts: Mapping[str, str]) -> Self:
        """Return a copy with more variables for child processes, such as secrets that were generated just now."""
        return replace(self, environment=MappingProxyType({**self.environment, **texts}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The options of a program that trains, finds, checks or compiles a model; ``settings`` are those of a replica."""

    settings: Settings
    covertype_path: Path | None = None
    forest: str = "default"
    data: Path | None = None
    own_registry: str = ""
    # All variables. Use them only for the environments of child processes.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read COVERTYPE_PATH, FOREST, DATA, STACK_REGISTRY and the settings of a replica.

        Raises:
            CommandError, SettingsError: a value is invalid; the message names the variable, its value and what was
                expected.
        """
        values = dict(_values(Options, {name: environ.get(name, "") for name in ("COVERTYPE_PATH", "FOREST", "DATA")}))
        own_registry = environ.get("STACK_REGISTRY", "")
        settings = Settings.from_env(environ)
        return cls(**values, settings=settings, own_registry=own_registry, environment=MappingProxyType(dict(environ)))


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
        """Read a variable for each field: ``S3_BUCKET`` for ``s3_bucket``.

        Raises:
            CommandError: a value is invalid; the message names the variable, its value and what was expected.
        """
        types: dict[str, Type[Any]] = {"artifacts": FilePath(), "port": _PORT}
        variables = {attribute.name: attribute.name.upper() for attribute in fields(cls)}
        texts = {name: environ[variable] for name, variable in variables.items() if environ.get(variable)}
        return cls(**{name: parse(variables[name], text, types.get(name, Text())) for name, text in texts.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The options of `make bench`. None stands for a variable that is not set."""

    # fmt: off
    quick: Annotated[bool, Variable(
        "QUICK", Switch(), "0", "1: measure one engine with one worker, for a shorter time per row",
    )] = False
    workers: Annotated[tuple[int, ...] | None, Variable(
        "WORKERS", NumberList(64), "`1 2 4`", "numbers of workers to measure",
    )] = None
    connections: Annotated[tuple[int, ...] | None, Variable(
        "CONNECTIONS", NumberList(10_000), "`1 64 512`", "numbers of client connections to measure",
    )] = None
    seconds: Annotated[int | None, Variable(
        "BENCH_SECONDS", WholeNumber(1, 3600), "6; 5 with `QUICK=1`", "seconds that each row of the table is measured",
    )] = None
    data: Annotated[Path | None, Variable("DATA", FilePath(), "random rows", "CSV file of rows to send")] = None
    # fmt: on

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read QUICK, WORKERS, CONNECTIONS, BENCH_SECONDS and DATA.

        Raises:
            CommandError: a value is invalid; the message names the variable, its value and what was expected.
        """
        return cls(**dict(_values(cls, environ)))


@cache
def _declared(options: Any) -> dict[str, Variable]:
    """Return the Variable in the annotation of each field of an options class, by the field's name."""
    hints = get_type_hints(options, include_extras=True)
    return {
        name: annotation
        for name, hint in hints.items()
        for annotation in getattr(hint, "__metadata__", ())
        if isinstance(annotation, Variable)
    }


# Without WORKERS and DATA, which the tables of the scaling lab and of the stack list.
BENCH_VARIABLES = tuple(
    variable for variable in _declared(BenchOptions).values() if variable.name not in ("WORKERS", "DATA")
)


_STACK_VARIABLES = (
    *_declared(Options).values(),
    *REPLICA_VARIABLES,
    *REGISTRY_VARIABLES,
    *CREDENTIAL_VARIABLES,
)
# All variables that users set, in the order of docs/settings.md.
VARIABLES = (*_STACK_VARIABLES, *LAB_VARIABLES, *BENCH_VARIABLES)
# The names of all variables that docker-compose.yml may use. Compose gets them from the verbs only, never from the
# user's shell.
COMPOSE_VARIABLES = (
    *(name for variable in _STACK_VARIABLES for name in (variable.name, *variable.aliases)),
    *INTERNAL_VARIABLES,
)


# Without these a command cannot find the stack, so they must be valid for every verb.
_LOCATING_VARIABLES = ("BACKEND", "VAR_DIR", "ENV_FILE", "COMPOSE_PROJECT_NAME")


def _is_readable(name: str, text: str) -> bool:
    try:
        Options.read({name: text})
    except (CommandError, SettingsError):
        return False
    return True


def env_file(environ: Mapping[str, str]) -> Path:
    """Return the path of the file of settings: ENV_FILE, or ``.env`` in the checkout."""
    return parse("ENV_FILE", environ.get("ENV_FILE") or ".env", FilePath())


def read_environment() -> dict[str, str]:
    """Return the environment of this process, with the file of settings for variables that it does not set.

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
        if (setting := variable.read(environ)) is not None:
            name, value = setting
            is_amount = isinstance(variable.type, CpuCount | MemorySize)
            yield field_name, Amount(name, environ[name], value) if is_amount else value


def mask_password(uri: str) -> str:
    """Return an address for use in a message, with *** in place of a password."""
    return re.sub(r"(//[^/@:]*:)[^/@]*@", r"\1***@", uri)


def _absolute_uri(uri: str) -> str:
    """Make a path, or that of a SQLite file, relative to the checkout: processes of the stack run in other folders."""
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{ROOT / uri.removeprefix('sqlite:///')}"
    return uri if ":" in uri else str(ROOT / uri)
