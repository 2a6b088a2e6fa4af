"""Credentials of the registry, read from files: container engines provide secrets as files, and MLflow reads variables.

Only the resolver's short-lived process gets the variables, so that a replica's environment contains no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from server.errors import SettingsError
from server.system.files import read_small_file

CREDENTIAL_VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def with_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with each variable set from its ``<variable>_FILE``, which overrides the variable.

    Raises:
        SettingsError: a file cannot be read, or is empty.
    """
    paths = {name: environ.get(f"{name}_FILE", "") for name in CREDENTIAL_VARIABLES}
    return {**environ, **{name: _read_secret(f"{name}_FILE", path) for name, path in paths.items() if path}}


def _read_secret(name: str, path: str) -> str:
    try:
        # Editors end a file with a line break, which is not part of the secret.
        text = read_small_file(Path(path)).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"{name}={path!r}: cannot be read: expected text in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{name}={path!r}: cannot be read: {reason}") from None
    if not text:
        raise SettingsError(f"{name}={path!r}: the file is empty")
    return text
