"""What opens the registry, from files: engines hand out secrets as files, and MLflow reads variables.

Only the resolver's short-lived process gets them, so that no environment of a replica has a secret in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from server.errors import SettingsError
from server.system.files import read_small_file

VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def with_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment, with each ``<variable>_FILE`` read into its variable; a file comes before the variable itself.

    Raises:
        SettingsError: a file cannot be read, or is empty.
    """
    named = {name: environ.get(f"{name}_FILE", "") for name in VARIABLES}
    return {**environ, **{name: _content(f"{name}_FILE", path) for name, path in named.items() if path}}


def _content(name: str, path: str) -> str:
    try:
        # The line break is the editor's.
        text = read_small_file(Path(path)).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"{name}={path!r}: cannot be read: it is no text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{name}={path!r}: cannot be read: {reason}") from None
    if not text:
        raise SettingsError(f"{name}={path!r}: the file is empty")
    return text
