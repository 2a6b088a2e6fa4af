"""What a stack is asked to be: replicas, addresses, limits and settings. Kept in ``var/stack.json`` while it is up."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import overload

from deploy.errors import CommandError
from deploy.stack.paths import ROOT, Layout, at
from server.settings import Settings
from server.system.files import write_atomically

# What `up` hands to the replicas and keeps until `down`; LOCUST_WORKERS is for Locust, and those from IMAGE to EXTRAS
# are for containers alone.
SETTINGS = (
    "MODEL_URI", "MLFLOW_TRACKING_URI", "WEB_CONCURRENCY", "ENGINE", "MAX_BATCH_ROWS", "MAX_PENDING",
    "MAX_BODY_BYTES", "KEEP_ALIVE", "GRACEFUL_TIMEOUT", "LOG_LEVEL", "LOCUST_WORKERS", "IMAGE", "TAG", "LOCUST_CPUS",
    "LOCUST_MEMORY", "EXTRAS", "API_KEYS_FILE",
)  # fmt: skip
# What EXTRAS may list: lock files that the images can have besides.
EXTRAS = ("onnx", "parquet")
# The most replicas: as many as nginx/upstream-local.conf lists, and as Nginx in a container tries before it gives up.
MOST = {"local": 8, "docker": 16}
# The most workers of Locust's, each of which takes a CPU when it works.
MOST_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Stack:
    """The wanted state.

    ``cpus`` and ``memory`` (``512M``) are what each replica is held to, or None; ``model`` is the copy that containers
    were started with, and ``promoted`` the one that they were reloaded with since, if so. ``full`` is whether the stack
    has a registry of its own (deploy/stack/registry_services.py), its page at ``mlflow_port``; ``registry`` is what the
    user named in place of its database or its object store. ``monitoring`` is whether containers are watched by others
    beside them.
    """

    replicas: int = 1
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    locust_port: int = 8089
    cpus: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    memory: str | None = None
    backend: str = "local"
    model: str = ""
    promoted: str = ""
    full: bool = False
    mlflow_port: int = 5000
    registry: dict[str, str] = field(default_factory=dict)
    monitoring: bool = False
    prometheus_port: int = 9090
    grafana_port: int = 3000
    tls_cert: str = ""
    tls_key: str = ""
    https_port: int | None = None
    client_requests: int = 0
    client_connections: int = 0

    @property
    def address(self) -> str:
        """Where a client on this machine reaches Nginx."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.http_host, self.http_host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        scheme, port, usual = ("https", self.https_port, 443) if self.has_tls else ("http", self.http_port, 80)
        return f"{scheme}://{host}" if port == usual else f"{scheme}://{host}:{port}"

    @property
    def has_tls(self) -> bool:
        """Whether Nginx speaks TLS."""
        return bool(self.tls_cert)

    @property
    def ports(self) -> dict[str, int]:
        """Where it listens on this machine, by the variables that say so."""
        ports = {"HTTP_PORT": self.http_port or 80, "LOCUST_PORT": self.locust_port}
        ports |= {"HTTPS_PORT": self.https_port or 443} if self.has_tls else {}
        return ports | ({"MLFLOW_PORT": self.mlflow_port} if self.full else {})

    def check_ports(self) -> None:
        """No two services are to listen at one port.

        Raises:
            CommandError: two are.
        """
        taken: dict[int, str] = {}
        for name, port in self.ports.items():
            if port in taken:
                raise CommandError(f"{name}={port}: {taken[port]} is that port already; expected another port")
            taken[port] = name

    def changed(self, environ: Mapping[str, str]) -> Stack:
        """The same stack with what the command line or ``.env`` asks for.

        Raises:
            CommandError, SettingsError: naming the variable, its value and what was expected.
        """
        self._refuse_empty_locks(environ)
        environment = self.environment | {name: environ[name] for name in SETTINGS if environ.get(name)}
        for name in ("MODEL_URI", "MLFLOW_TRACKING_URI"):
            if name in environment:
                environment[name] = _anchored(environment[name])
        if "API_KEYS_FILE" in environment:
            environment["API_KEYS_FILE"] = _absolute("API_KEYS_FILE", environment["API_KEYS_FILE"])
        cert, key = self._pair(environ)
        Settings.from_env(environment)
        whole(environment, "LOCUST_WORKERS", 1, 1, MOST_WORKERS)
        if not set(environment.get("EXTRAS", "").split()) <= set(EXTRAS):
            raise CommandError(f"EXTRAS={environment['EXTRAS']!r}: expected a list of {', '.join(EXTRAS)}")
        return replace(
            self,
            replicas=whole(environ, "N", self.replicas, 1, MOST[self.backend]),
            http_host=environ.get("HTTP_HOST") or self.http_host,
            http_port=whole(environ, "HTTP_PORT", self.http_port, 1, 65535),
            locust_port=whole(environ, "LOCUST_PORT", self.locust_port, 1, 65535),
            prometheus_port=whole(environ, "PROMETHEUS_PORT", self.prometheus_port, 1, 65535),
            grafana_port=whole(environ, "GRAFANA_PORT", self.grafana_port, 1, 65535),
            environment=environment,
            tls_cert=cert,
            tls_key=key,
            https_port=whole(environ, "HTTPS_PORT", self.https_port, 1, 65535),
            client_requests=whole(environ, "CLIENT_REQUESTS", self.client_requests, 1, 1_000_000),
            client_connections=whole(environ, "CLIENT_CONNECTIONS", self.client_connections, 1, 65535),
        )

    def _refuse_empty_locks(self, environ: Mapping[str, str]) -> None:
        # Elsewhere an empty value is none. Here somebody means to open a lock, or lost a variable: neither is to pass.
        on = {
            "API_KEYS_FILE": "API_KEYS_FILE" in self.environment,
            "TLS_CERT": self.has_tls,
            "TLS_KEY": self.has_tls,
            "CLIENT_REQUESTS": self.client_requests,
            "CLIENT_CONNECTIONS": self.client_connections,
        }
        for name, is_on in on.items():
            if is_on and environ.get(name) == "":
                raise CommandError(f"{name} is empty, and the stack has it: make down, then make up without it")

    def _pair(self, environ: Mapping[str, str]) -> tuple[str, str]:
        cert = _absolute("TLS_CERT", environ.get("TLS_CERT") or self.tls_cert)
        key = _absolute("TLS_KEY", environ.get("TLS_KEY") or self.tls_key)
        if bool(cert) != bool(key):
            raise CommandError(f"{'TLS_KEY' if cert else 'TLS_CERT'} is missing: TLS_CERT and TLS_KEY go together")
        return cert, key

    @property
    def locust_workers(self) -> int:
        """How many processes Locust's users share."""
        return int(self.environment.get("LOCUST_WORKERS") or 1)

    @property
    def _is_sound(self) -> bool:
        ports = (self.http_port or 80, self.locust_port, self.mlflow_port, self.prometheus_port, self.grafana_port)
        doors = (self.https_port or 443, self.client_requests, self.client_connections)
        return (
            self.backend in MOST
            and isinstance(self.environment, dict)
            and isinstance(self.registry, dict)
            and all(isinstance(text, str) for text in (self.http_host, self.tls_cert, self.tls_key))
            and all(isinstance(number, (int, float)) for number in (self.replicas, self.cpus or 1, *ports, *doors))
        )

    def serving(self, model: str) -> Stack:
        """The same stack with this copy as the current one: containers that have reloaded to it are started no more."""
        return self if model == (self.promoted or self.model) else replace(self, model=model, promoted="")

    def runs_as(self, other: Stack) -> bool:
        """Whether a replica of this stack is started just like one of the other."""
        return (self.environment, self.cpus, self.memory) == (other.environment, other.cpus, other.memory)

    def settings(self, layout: Layout) -> Settings:
        """What a replica of this stack will read."""
        return Settings.from_env({**self.environment, "VAR_DIR": str(layout.var)})

    def save(self, layout: Layout) -> None:
        """Remember it for the next verb."""
        write_atomically(layout.state, json.dumps(asdict(self), indent=1), 0o600)

    @classmethod
    def load(cls, layout: Layout) -> Stack | None:
        """The stack that was last asked for, if it was not taken down."""
        try:
            stack = cls(**json.loads(layout.state.read_bytes()))
            if not stack._is_sound:
                raise TypeError
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise CommandError(f"{layout.state} is damaged: make down, then make up") from None
        return stack

    @classmethod
    def forget_damaged(cls, layout: Layout) -> None:
        """Remove a record that cannot be read, for those who stop whatever runs."""
        try:
            cls.load(layout)
        except CommandError:
            layout.state.unlink()


def _absolute(name: str, value: str) -> str:
    """A path as seen from the checkout; an empty one stays empty. Links stay: what they lead to may change."""
    if not value.isprintable():
        raise CommandError(f"{name}={value!r}: expected a path of printable characters")
    return os.path.normpath(at(name, value)) if value else ""


def _anchored(uri: str) -> str:
    """A relative path, or SQLite file, as seen from the checkout, where `make` runs; the stack works elsewhere."""
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{ROOT / uri.removeprefix('sqlite:///')}"
    return uri if ":" in uri else str(ROOT / uri)


@overload
def whole(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int: ...


@overload
def whole(environ: Mapping[str, str], name: str, default: int | None, low: int, high: int) -> int | None: ...


def whole(environ: Mapping[str, str], name: str, default: int | None, low: int, high: int) -> int | None:
    """A whole number from a variable, or the default where it is unset or empty.

    Raises:
        CommandError: it is none, or out of its range.
    """
    value = environ.get(name)
    if not value:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 10) or not low <= int(value) <= high:
        raise CommandError(f"{name}={value!r}: expected a whole number from {low} to {high}")
    return int(value)
