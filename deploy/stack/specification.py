"""What a stack is asked to be: replicas, addresses, limits and settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.errors import CommandError
from deploy.options import MAX_REPLICAS, Options
from deploy.stack.paths import Layout
from server.settings import Settings

_EVERY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104  (compared, not listened on)


@dataclass(frozen=True, slots=True)
class Stack:
    """The wanted state.

    ``cpus`` and ``memory`` (``512M``) are what each replica is held to, or None. ``environment`` is what child
    processes are given of the options that a stack keeps. ``full`` is whether the stack has a registry of its own
    (deploy/stack/registry_services.py), its page at ``mlflow_port``; ``registry`` is what the user named in place of
    its database or its object store. ``monitoring`` is whether containers are watched by others beside them.
    """

    replicas: int = 1
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    locust_port: int = 8089
    cpus: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    memory: str | None = None
    backend: str = "local"
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

    def new_ports(self, before: Stack | None) -> dict[str, tuple[str, int]]:
        """Return the address and the port of each variable by which it listens where it did not before.

        A port of its own is not new at an address that covers the one before, or is covered by it: the kernel would
        say that it is in use, by the stack itself.
        """
        own = before.ports if before else {}
        hosts = {"HTTP_PORT": self.http_host, "HTTPS_PORT": self.http_host}
        moved = before is not None and self.http_host != before.http_host
        moved = moved and before is not None and not {self.http_host, before.http_host} & _EVERY_ADDRESS
        return {
            name: (hosts.get(name, "127.0.0.1"), port)
            for name, port in self.ports.items()
            if port != own.get(name) or (moved and name in hosts)
        }

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

    def changed(self, options: Options) -> Stack:
        """Return the same stack with what the options ask for.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        self._refuse_empty_locks(options)
        cert, key = self._pair(options)
        return replace(
            self,
            replicas=self._replicas(options),
            http_host=options.http_host or self.http_host,
            http_port=options.http_port or self.http_port,
            locust_port=options.locust_port or self.locust_port,
            prometheus_port=options.prometheus_port or self.prometheus_port,
            grafana_port=options.grafana_port or self.grafana_port,
            environment=self.environment | dict(options.persistent),
            tls_cert=cert,
            tls_key=key,
            https_port=options.https_port or self.https_port,
            client_requests=options.client_requests or self.client_requests,
            client_connections=options.client_connections or self.client_connections,
        )

    def scaled(self, options: Options) -> Stack:
        """Return the same stack with another number of replicas.

        Raises:
            CommandError: there is none, or the backend cannot run so many.
        """
        if options.replicas is None:
            raise CommandError(f"N is missing: make scale N=3 (a whole number from 1 to {MAX_REPLICAS[self.backend]})")
        return replace(self, replicas=self._replicas(options))

    def _replicas(self, options: Options) -> int:
        if options.replicas is None:
            return self.replicas
        most = MAX_REPLICAS[self.backend]
        if options.replicas > most:
            raise CommandError(f"N={str(options.replicas)!r}: expected a whole number from 1 to {most}")
        return options.replicas

    def _refuse_empty_locks(self, options: Options) -> None:
        # Elsewhere an empty value is none. Here somebody means to open a lock, or lost a variable: neither is to pass.
        on = {
            "API_KEYS_FILE": self.api_keys_file is not None,
            "TLS_CERT": self.has_tls,
            "TLS_KEY": self.has_tls,
            "CLIENT_REQUESTS": self.client_requests,
            "CLIENT_CONNECTIONS": self.client_connections,
        }
        for name, is_on in on.items():
            if is_on and name in options.set_but_empty:
                raise CommandError(f"{name} is empty, and the stack has it: make down, then make up without it")

    def _pair(self, options: Options) -> tuple[str, str]:
        cert, key = (os.path.normpath(path) if path else "" for path in (options.tls_cert, options.tls_key))
        cert, key = cert or self.tls_cert, key or self.tls_key
        if bool(cert) != bool(key):
            raise CommandError(f"{'TLS_KEY' if cert else 'TLS_CERT'} is missing: TLS_CERT and TLS_KEY go together")
        return cert, key

    @property
    def model_uri(self) -> str:
        """The model that it was asked to serve; empty for the default one."""
        return self.environment.get("MODEL_URI", "")

    @property
    def tracking_uri(self) -> str:
        """The registry that it was asked to use; empty for the one in its own folder or volume."""
        return self.environment.get("MLFLOW_TRACKING_URI", "")

    @property
    def api_keys_file(self) -> Path | None:
        """The file of API keys; None where there are no keys."""
        return Path(self.environment["API_KEYS_FILE"]) if "API_KEYS_FILE" in self.environment else None

    @property
    def has_published_images(self) -> bool:
        """Whether it runs images that were published, not built from this checkout."""
        return "IMAGE" in self.environment

    @property
    def locust_workers(self) -> int:
        """How many processes Locust's users share."""
        return int(self.environment.get("LOCUST_WORKERS") or 1)

    @property
    def is_valid(self) -> bool:
        """Whether the fields have values that they can have, after they were read from a file."""
        ports = (self.http_port or 80, self.locust_port, self.mlflow_port, self.prometheus_port, self.grafana_port)
        doors = (self.client_requests, self.client_connections)
        return (
            self.backend in MAX_REPLICAS
            and all(
                isinstance(texts, dict) and _are_texts(*texts.values()) for texts in (self.environment, self.registry)
            )
            and _are_texts(self.http_host, self.tls_cert, self.tls_key, self.memory or "")
            and all(isinstance(number, int) for number in (self.replicas, *ports, *doors))
            and all(0 < port < 65536 for port in (*ports, self.https_port or 443))
            and self.replicas > 0
            and 0 < (self.cpus or 1) < float("inf")
            and all(self.environment.values())
            and Options.read(self.environment).set_but_empty == frozenset()
        )

    def runs_as(self, other: Stack) -> bool:
        """Whether a replica of this stack is started just like one of the other."""
        return (self.environment, self.cpus, self.memory) == (other.environment, other.cpus, other.memory)

    def settings(self, layout: Layout) -> Settings:
        """What a replica of this stack will read."""
        return Settings.from_env({**self.environment, "VAR_DIR": str(layout.var)})


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)
