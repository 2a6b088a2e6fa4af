"""Settings of one replica, read once from the environment.

This module is the only reader of the environment in ``server/``. Everything else takes plain arguments.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from server.errors import SettingsError
from server.system.cgroup import available_cpus

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("auto", "forest", "onnx", "sklearn", "pyfunc")
MAX_MODEL_NAME_CHARACTERS = 100
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one replica. Times are in seconds; a size has its unit in its name."""

    model_uri: str
    model_name: str | None
    tracking_uri: str
    registry_uri: str | None
    var_dir: Path
    workers: int
    host: str
    port: int
    socket: str | None
    engine: str
    max_batch_rows: int
    max_pending: int
    max_body_bytes: int
    keep_alive: int
    graceful_timeout: int
    log_level: str
    replica: str
    api_keys_file: Path | None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables; an empty value counts as unset.

        Raises:
            SettingsError: a value is invalid; the message names the variable, its value and what was expected.
        """
        env = _EnvReader(environ)
        var_dir = Path(env.get("VAR_DIR", str(ROOT / "var"), str)).resolve()
        return cls(
            model_uri=env.get("MODEL_URI", "models:/covertype@champion", str),
            model_name=env.get("MODEL_NAME", None, parse_model_name),
            tracking_uri=env.get("MLFLOW_TRACKING_URI", f"sqlite:///{var_dir}/mlflow.db", str),
            var_dir=var_dir,
            # MLflow's own variable, for a model registry on another server than the tracking server.
            registry_uri=env.get("MLFLOW_REGISTRY_URI", None, str),
            workers=env.get("WEB_CONCURRENCY", available_cpus(), _integer(1, 1024)),
            host=env.get("HOST", "127.0.0.1", str),
            port=env.get("PORT", 8000, _integer(1, 65535)),
            socket=env.get("SOCKET", None, str),
            engine=env.get("ENGINE", "auto", _one_of(ENGINES)),
            max_batch_rows=env.get("MAX_BATCH_ROWS", 256, _integer(1, 1_000_000)),
            max_pending=env.get("MAX_PENDING", 4096, _integer(1, 10_000_000)),
            max_body_bytes=env.get("MAX_BODY_BYTES", 1_048_576, _integer(1, 2**31)),
            keep_alive=env.get("KEEP_ALIVE", 75, _integer(1, 3600)),
            graceful_timeout=env.get("GRACEFUL_TIMEOUT", 30, _integer(1, 3600)),
            log_level=env.get("LOG_LEVEL", "info", _one_of(LOG_LEVELS)),
            replica=env.get("REPLICA", socket.gethostname(), _replica_name),
            # Symlinks stay unresolved, because Kubernetes replaces a mounted Secret by moving a symlink.
            api_keys_file=env.get("API_KEYS_FILE", None, lambda value: Path(value).absolute()),
        )

    @property
    def models_dir(self) -> Path:
        """The model store: verified model copies, shared by the replicas of one host."""
        return self.var_dir / "models"

    @property
    def kernels_dir(self) -> Path:
        """The folder of compiled kernels inside the model store."""
        return self.models_dir / "kernels"

    @property
    def bind(self) -> str:
        """The address that Gunicorn listens on: the Unix socket if one is set, else host and port."""
        if self.socket:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def log_level_number(self) -> int:
        """The log level as a number of the logging module."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]


def is_model_name(text: str) -> bool:
    """Return whether a text may be a model's name, which is a segment of URL paths: /v2/models/<name>/infer."""
    return (
        0 < len(text) <= MAX_MODEL_NAME_CHARACTERS
        and text.isprintable()
        and text == text.strip()
        and text not in (".", "..")
        and "/" not in text
        and "\\" not in text
    )


def parse_model_name(value: str) -> str:
    """Return the text if it may be a model's name.

    Raises:
        ValueError: it may not; the message says what was expected.
    """
    if not is_model_name(value):
        raise ValueError(
            f"a segment of a URL's path: at most {MAX_MODEL_NAME_CHARACTERS} printable characters, without slash, "
            "backslash and spaces at the ends, and not . or .."
        )
    return value


class _EnvReader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, name: str, default: T, parse: Callable[[str], T]) -> T:
        value = self._environ.get(name, "")
        if not value:
            return default
        try:
            return parse(value)
        except ValueError as error:
            raise SettingsError(f"{name}={value!r}: expected {error}") from None


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not (value.isascii() and value.isdigit()) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return parse


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return parse


def _replica_name(value: str) -> str:
    # The header X-Served-By has the value <replica>/<worker pid>.
    if not value.isascii() or not value.isprintable() or " " in value or "/" in value:
        raise ValueError("a name of printable ASCII without spaces or slashes")
    return value
