"""The wanted state of a stack: replicas, addresses, limits and settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.errors import CommandError
from deploy.options import MAX_REPLICAS, Options
from deploy.stack.paths import Layout
from server.settings import Settings

_WILDCARD_ADDRESSES = {"0.0.0.0", "::"}  # noqa: S104  (compared, not listened on)


@dataclass(frozen=True, slots=True)
class Stack:
    """The wanted state of a stack.

    ``cpus`` and ``memory`` (such as ``512M``) are the limits of each replica, or None. ``environment`` has the
    persistent options, as variables of child processes. ``full`` tells whether the stack has its own registry, with
    MLflow at ``mlflow_port``; ``registry`` has the variables of an external database or object store
    (:mod:`deploy.stack.registry_services`). ``monitoring`` tells whether Prometheus and Grafana run beside it. A limit
    per client of 0 is none.
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
        """The URL of Nginx for a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.http_host, self.http_host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        scheme, port, standard = ("https", self.https_port, 443) if self.has_tls else ("http", self.http_port, 80)
        return f"{scheme}://{host}" if port == standard else f"{scheme}://{host}:{port}"

    @property
    def has_tls(self) -> bool:
        """Whether Nginx speaks TLS."""
        return bool(self.tls_cert)

    @property
    def ports(self) -> dict[str, int]:
        """The ports of the stack on this machine, by the variables that set them."""
        ports = {"HTTP_PORT": self.http_port or 80, "LOCUST_PORT": self.locust_port}
        ports |= {"HTTPS_PORT": self.https_port or 443} if self.has_tls else {}
        return ports | ({"MLFLOW_PORT": self.mlflow_port} if self.full else {})

    def new_ports(self, previous: Stack | None) -> dict[str, tuple[str, int]]:
        """Return the address and the port of each variable that makes the stack listen where it did not before.

        A port that stays the same is not new if the old or the new address is a wildcard: the two overlap, so a check
        would find the port in use by the stack itself.
        """
        previous_ports = previous.ports if previous else {}
        hosts = {"HTTP_PORT": self.http_host, "HTTPS_PORT": self.http_host}
        moved = previous is not None and self.http_host != previous.http_host
        moved = moved and previous is not None and not {self.http_host, previous.http_host} & _WILDCARD_ADDRESSES
        return {
            name: (hosts.get(name, "127.0.0.1"), port)
            for name, port in self.ports.items()
            if port != previous_ports.get(name) or (moved and name in hosts)
        }

    def check_ports(self) -> None:
        """Check that every service has a different port.

        Raises:
            CommandError: two services have the same port.
        """
        names: dict[int, str] = {}
        for name, port in self.ports.items():
            if port in names:
                raise CommandError(f"{name}={port}: expected another port, since {names[port]} is {port} too")
            names[port] = name

    def changed(self, options: Options) -> Stack:
        """Return the stack with the settings that the options change.

        Raises:
            CommandError: a value is invalid; the message names the variable, its value and what was expected.
        """
        self._check_protection_stays(options)
        cert, key = self._tls_files(options)
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
        """Return the stack with the number of replicas that the options set.

        Raises:
            CommandError: the number is missing, or larger than the backend allows.
        """
        if options.replicas is None:
            raise CommandError(f"N is missing: make scale N=3 (a whole number from 1 to {MAX_REPLICAS[self.backend]})")
        return replace(self, replicas=self._replicas(options))

    def _replicas(self, options: Options) -> int:
        if options.replicas is None:
            return self.replicas
        maximum = MAX_REPLICAS[self.backend]
        if options.replicas > maximum:
            raise CommandError(f"N={str(options.replicas)!r}: expected a whole number from 1 to {maximum}")
        return options.replicas

    def _check_protection_stays(self, options: Options) -> None:
        # Elsewhere an empty value counts as not set. Here it may be meant to switch protection off, or a variable may
        # have been lost, so neither reading is safe.
        in_use = {
            "API_KEYS_FILE": self.api_keys_file is not None,
            "TLS_CERT": self.has_tls,
            "TLS_KEY": self.has_tls,
            "CLIENT_REQUESTS": self.client_requests,
            "CLIENT_CONNECTIONS": self.client_connections,
        }
        for name, is_in_use in in_use.items():
            if is_in_use and name in options.set_but_empty:
                raise CommandError(
                    f"{name} is empty, but the running stack uses it: unset it to keep it; to remove it, run make down "
                    "and then make up without it"
                )

    def _tls_files(self, options: Options) -> tuple[str, str]:
        cert, key = (os.path.normpath(path) if path else "" for path in (options.tls_cert, options.tls_key))
        cert, key = cert or self.tls_cert, key or self.tls_key
        if bool(cert) != bool(key):
            raise CommandError(f"{'TLS_KEY' if cert else 'TLS_CERT'} is missing: expected both TLS_CERT and TLS_KEY")
        return cert, key

    @property
    def model_uri(self) -> str:
        """The URI of the model to serve; empty for the default model."""
        return self.environment.get("MODEL_URI", "")

    @property
    def tracking_uri(self) -> str:
        """The URI of the registry; empty for the SQLite registry in the stack's folder or volume."""
        return self.environment.get("MLFLOW_TRACKING_URI", "")

    @property
    def api_keys_file(self) -> Path | None:
        """The file of API keys, or None if no key is needed."""
        return Path(self.environment["API_KEYS_FILE"]) if "API_KEYS_FILE" in self.environment else None

    @property
    def has_published_images(self) -> bool:
        """Whether the stack runs published images, in place of images built from this checkout."""
        return "IMAGE" in self.environment

    @property
    def locust_workers(self) -> int:
        """The number of Locust's worker processes."""
        return int(self.environment.get("LOCUST_WORKERS") or 1)

    @property
    def is_valid(self) -> bool:
        """Whether all fields that were read from a file have valid types and values."""
        ports = (self.http_port or 80, self.locust_port, self.mlflow_port, self.prometheus_port, self.grafana_port)
        client_limits = (self.client_requests, self.client_connections)
        return (
            self.backend in MAX_REPLICAS
            and all(
                isinstance(texts, dict) and _are_texts(*texts.values()) for texts in (self.environment, self.registry)
            )
            and _are_texts(self.http_host, self.tls_cert, self.tls_key, self.memory or "")
            and all(isinstance(number, int) for number in (self.replicas, *ports, *client_limits))
            and all(0 < port < 65536 for port in (*ports, self.https_port or 443))
            and self.replicas > 0
            and 0 < (self.cpus or 1) < float("inf")
            and all(self.environment.values())
            and Options.read(self.environment).set_but_empty == frozenset()
        )

    def settings(self, layout: Layout) -> Settings:
        """Return the settings of a replica of this stack."""
        return Settings.from_env({**self.environment, "VAR_DIR": str(layout.var)})


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)
