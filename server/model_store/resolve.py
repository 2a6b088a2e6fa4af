"""Resolving MODEL_URI to a folder on this host, in a short-lived process, the only one that uses MLflow for it.

``python -m server.model_store.resolve`` prints one JSON document: ``{"copy": {...}}``, or
``{"error": "...", "type": "ModelError"}`` or ``"RegistryError"``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE, run
from typing import Any
from urllib.parse import unquote, urlsplit

from server.errors import ModelError, RegistryError, StartError, first_line
from server.model_store.copies import LOGGED_MODEL_ID, Copies, Copy
from server.model_store.credentials import with_credentials
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.settings import ROOT, Settings

logger = logging.getLogger(__name__)

# MLflow's error codes for a model that does not exist.
_NOT_FOUND_CODES = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND", "ENDPOINT_NOT_FOUND"})

# MLflow writes a chain of causes into one line. This matches the last one.
_CAUSE = re.compile(r"\(Caused by (.+)\)$")
_MAX_REASON_CHARACTERS = 160

# If a registry is down, the last good copy is served after seconds instead of MLflow's default of minutes.
_SHORT_TIMEOUTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True, slots=True)
class _ModelSource:
    """The source of a model: the URI that MLflow downloads it from, and the registry's name, version and digest."""

    artifact_uri: str
    name: str
    version: str | None
    digest: str | None


def resolve_in_child(environ: Mapping[str, str]) -> Copy:
    """Resolve MODEL_URI in a child process, so that MLflow does not stay in the memory of this one.

    Raises:
        StartError: the error of the child.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "server.model_store.resolve"]
    child_environ = {**_SHORT_TIMEOUTS, **with_credentials(environ), "PYTHONPATH": path}
    child = run(command, env=child_environ, stdout=PIPE, check=False)
    try:
        result = json.loads(child.stdout)
    except ValueError:
        status = child.returncode
        raise ModelError(f"the process that resolves MODEL_URI ended with status {status} and no result") from None
    if "copy" in result:
        return Copy.from_json(result["copy"])
    raise (ModelError if result["type"] == ModelError.__name__ else RegistryError)(result["error"])


def resolve(settings: Settings) -> Copy:
    """Return the copy of the model that MODEL_URI names: downloaded, or the last good one if the registry fails.

    Raises:
        ModelError: there is no such model.
        RegistryError: the registry did not deliver the model, and there is no last good copy.
    """
    local = local_folder(settings.model_uri)
    if local is not None:
        return Copy.from_record(local) if local.suffix == ".json" else _local_copy(local, settings.model_uri)
    copies = Copies(settings.models_dir)
    stamp = _registry_stamp(settings)
    with copies.lock():
        if stamp is not None and (copy := copies.unchanged(settings.model_uri, settings.tracking_uri, stamp)):
            return copy
        try:
            copy = replace(_from_registry(copies, settings), stamp=stamp)
        except RegistryError as error:
            last_good = copies.last_good(settings.model_uri, settings.tracking_uri, str(error))
            if last_good is None:
                raise
            logger.warning("serving the last good copy, version %s: %s", last_good.version, error)
            return last_good
        copies.record(copy, settings.tracking_uri)
    return copy


def local_folder(uri: str) -> Path | None:
    """Return the folder on this host that a URI names, or None if it names a model in a registry or a remote store."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


def _registry_stamp(settings: Settings) -> str | None:
    """Return a text that changes with a registry's SQLite file, so that an unchanged one need not be read with MLflow.

    Importing MLflow takes seconds. Return None if the file may stay the same while the model changes: the registry is
    elsewhere, or the model is not a registered version.
    """
    parts = urlsplit(settings.model_uri)
    registered = parts.scheme == "models" and not LOGGED_MODEL_ID.fullmatch(parts.path.strip("/"))
    if not registered or settings.registry_uri or not settings.tracking_uri.startswith("sqlite:///"):
        return None
    path = settings.tracking_uri.removeprefix("sqlite:///")
    stamps = []
    for name in (path, f"{path}-wal", f"{path}-journal"):
        with suppress(OSError):
            stat = Path(name).stat()
            stamps.append(f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}")
    return " ".join(stamps) or None


def _local_copy(folder: Path, uri: str) -> Copy:
    # A model in a folder of this host is served from there: a second copy on the same host would protect nothing.
    if not (folder / "MLmodel").is_file():
        raise ModelError(f"MODEL_URI={uri!r}: there is no MLflow model in that folder (no file MLmodel)")
    digest = folder_digest(folder)
    return Copy(folder.resolve(), folder.resolve().name, digest[:12], uri, digest)


def _from_registry(copies: Copies, settings: Settings) -> Copy:
    uri = settings.model_uri
    with _translated_errors(uri, settings.tracking_uri):
        source = _locate(uri, settings.tracking_uri)
    stored = source.digest is not None and copies.holds(source.digest)
    digest = source.digest if stored and source.digest else _download(copies, source, settings)
    return Copy(copies.path(digest), source.name, source.version or digest[:12], uri, digest)


def _locate(uri: str, tracking_uri: str) -> _ModelSource:
    parts = urlsplit(uri)
    path = parts.path.strip("/")
    if parts.scheme in ("models", "runs"):
        refuse_missing_database(tracking_uri)
    # Imported here, because a model in a local folder is served without MLflow.
    import mlflow  # noqa: PLC0415

    mlflow.set_tracking_uri(tracking_uri)
    if parts.scheme != "models":
        return _ModelSource(uri, Path(path).name, None, None)
    client = mlflow.MlflowClient()
    if LOGGED_MODEL_ID.fullmatch(path):
        return _ModelSource(uri, client.get_logged_model(path).name, None, None)
    version = _version(client, uri, path)
    # The version is downloaded by its number, because an alias or a stage may move meanwhile.
    return _ModelSource(
        f"models:/{version.name}/{version.version}", version.name, str(version.version), version.tags.get(DIGEST_TAG)
    )


def _version(client: Any, uri: str, path: str) -> Any:
    """Return the registered version of ``models:/<path>``, which names it by number, alias, stage or ``latest``."""
    name, _, selector = path.rpartition("/")
    if "@" in path:
        name, _, alias = path.rpartition("@")
        return client.get_model_version_by_alias(name, alias)
    if not name:
        raise ModelError(f"MODEL_URI={uri!r}: expected models:/<name>/<version or stage> or models:/<name>@<alias>")
    if selector.isdigit():
        return client.get_model_version(name, selector)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, but still in use
        versions = client.get_latest_versions(name, None if selector == "latest" else [selector])
    if not versions:
        raise ModelError(f"MODEL_URI={uri!r}: the registry has no version of {name!r} in the stage {selector!r}")
    return max(versions, key=lambda version: int(version.version))


def refuse_missing_database(tracking_uri: str) -> None:
    """Check that the file of a SQLite registry exists: SQLite would create an empty database, without the model.

    Raises:
        RegistryError: the file does not exist.
    """
    if tracking_uri.startswith("sqlite:///"):
        path = Path(tracking_uri.removeprefix("sqlite:///"))
        if not path.is_file():
            raise RegistryError(f"the registry's database {path} does not exist")


def _download(copies: Copies, source: _ModelSource, settings: Settings) -> str:
    """Download a model, verify and store it, and return its digest."""
    import mlflow.artifacts  # noqa: PLC0415

    # If the files of a registered version are missing, the model exists, and a last good copy may be served.
    missing = RegistryError if source.version else ModelError
    with (
        copies.staging_folder() as staging,
        _translated_errors(settings.model_uri, settings.tracking_uri, not_found=missing),
    ):
        downloaded = Path(mlflow.artifacts.download_artifacts(artifact_uri=source.artifact_uri, dst_path=str(staging)))
        if not (downloaded / "MLmodel").is_file():
            raise RegistryError(f"MODEL_URI={settings.model_uri!r}: the downloaded artifact has no file MLmodel")
        digest = folder_digest(downloaded)
        if source.digest not in (None, digest):
            raise RegistryError(
                f"MODEL_URI={settings.model_uri!r}: the model's files differ from those registered: "
                f"expected digest {str(source.digest)[:12]}, got {digest[:12]}"
            )
        copies.add(downloaded, digest)
    return digest


@contextmanager
def _translated_errors(uri: str, tracking_uri: str, not_found: type[StartError] = ModelError) -> Iterator[None]:
    """Turn MLflow's exceptions into ``not_found`` if the model does not exist, and RegistryError otherwise."""
    # Imported here, because only code that uses MLflow calls this.
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        yield
    except StartError:
        raise
    except MlflowException as error:
        reason = _short_reason(error)
        if error.error_code in _NOT_FOUND_CODES or reason.startswith("No versions of model"):
            raise not_found(_without_passwords(f"MODEL_URI={uri!r}: {reason} (registry {tracking_uri})")) from error
        raise RegistryError(_without_passwords(f"the registry {tracking_uri} did not answer: {reason}")) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {_short_reason(error)}"
        raise RegistryError(_without_passwords(f"the registry {tracking_uri} did not answer: {reason}")) from error


def _short_reason(error: Exception) -> str:
    line = _without_passwords(first_line(error))  # before truncation, which could remove the end of a password
    if caused := _CAUSE.search(line):
        line = caused[1]
    return line if len(line) <= _MAX_REASON_CHARACTERS else f"{line[:_MAX_REASON_CHARACTERS]}..."


def _without_passwords(text: str) -> str:
    """Return a text with the passwords in its URIs hidden: MLflow's messages contain URIs, and /health shows them."""
    return re.sub(r"://([^/\s:@]*):[^/\s]*@", r"://\1:***@", text)


def main() -> int:
    """Print the resolved copy, or the error, as one JSON document."""
    logging.basicConfig(stream=sys.stderr, level="WARNING", format="%(levelname)s %(message)s")
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel("ERROR")
    try:
        print(json.dumps({"copy": resolve(Settings.from_env(os.environ)).to_json()}))
    except StartError as error:
        failure = ModelError if isinstance(error, ModelError) else RegistryError
        print(json.dumps({"error": str(error), "type": failure.__name__}))
        return 1
    except OSError as error:
        message = f"cannot keep a copy of the model: {error}"
        print(json.dumps({"error": message, "type": RegistryError.__name__}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
