"""MODEL_URI to a folder on this host. Run as its own short-lived process, the only one that uses MLflow.

``python -m server.model_store.resolve`` prints one JSON document: ``{"copy": {...}}``, or ``{"error": "...", "found":
...}``.
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
from server.model_store.copies import Copies, Copy
from server.model_store.credentials import with_credentials
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.settings import ROOT, Settings

logger = logging.getLogger(__name__)

# What MLflow answers when it was reached, looked, and found nothing.
_NOT_THERE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND", "ENDPOINT_NOT_FOUND"})

# The id that MLflow 3 gives a logged model, registered or not.
_LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")

# MLflow puts a whole stack of causes into one line. This is the last one.
_CAUSE = re.compile(r"\(Caused by (.+)\)$")
_LONGEST_REASON = 160

# A registry that is down should cost seconds, not MLflow's default of minutes, before a last good copy stands in.
_IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True, slots=True)
class _Found:
    """What a URI means: where MLflow fetches it, and what the registry says of it."""

    artifact_uri: str
    name: str
    version: str | None
    digest: str | None


def resolve_in_child(environ: Mapping[str, str]) -> Copy:
    """Resolve in a process of its own, so that none of MLflow stays in this one's memory.

    Raises:
        StartError: in the words of the child.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "server.model_store.resolve"]
    child = run(command, env={**_IMPATIENT, **with_credentials(environ), "PYTHONPATH": path}, stdout=PIPE, check=False)
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise ModelError(f"the resolver ended with status {child.returncode} and no answer") from None
    if "copy" in answer:
        return Copy.from_json(answer["copy"])
    raise (ModelError if answer["found"] is False else RegistryError)(answer["error"])


def resolve(settings: Settings) -> Copy:
    """The model's folder on this host; from the last good copy where the registry does not give it.

    Raises:
        ModelError: there is no such model.
        RegistryError: the registry did not give it, and there is no copy.
    """
    local = local_folder(settings.model_uri)
    if local is not None:
        return Copy.recorded(local) if local.suffix == ".json" else _in_place(local, settings.model_uri)
    copies = Copies(settings.models_dir)
    stamp = _stamp(settings)
    with copies.lock():
        if stamp is not None and (copy := copies.still(settings.model_uri, settings.tracking_uri, stamp)):
            return copy
        try:
            copy = replace(_from_registry(copies, settings), stamp=stamp)
        except RegistryError as error:
            stand_in = copies.last_good(settings.model_uri, settings.tracking_uri, str(error))
            if stand_in is None:
                raise
            logger.warning("serving the last good copy, version %s: %s", stand_in.version, error)
            return stand_in
        copies.record(copy, settings.tracking_uri)
    return copy


def local_folder(uri: str) -> Path | None:
    """The folder of this host that a URI means; None if it means something in a registry or a store."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


def _stamp(settings: Settings) -> str | None:
    """What changes whenever a registry in a SQLite file does: importing MLflow, to be told the same, takes seconds.

    None where the file does not tell all: a registry elsewhere, or a model that is no registered version, whose files
    may change without it.
    """
    parts = urlsplit(settings.model_uri)
    registered = parts.scheme == "models" and not _LOGGED_MODEL.fullmatch(parts.path.strip("/"))
    if not registered or settings.registry_uri or not settings.tracking_uri.startswith("sqlite:///"):
        return None
    path = settings.tracking_uri.removeprefix("sqlite:///")
    found = []
    for name in (path, f"{path}-wal", f"{path}-journal"):
        with suppress(OSError):
            stat = Path(name).stat()
            found.append(f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}")
    return " ".join(found) or None


def _in_place(folder: Path, uri: str) -> Copy:
    """A model on this host is served from where it is: a second copy would save nobody."""
    if not (folder / "MLmodel").is_file():
        raise ModelError(f"MODEL_URI={uri!r}: there is no MLflow model in that folder (no file MLmodel)")
    digest = folder_digest(folder)
    return Copy(folder.resolve(), folder.resolve().name, digest[:12], uri, digest)


def _from_registry(copies: Copies, settings: Settings) -> Copy:
    uri = settings.model_uri
    with _explained(uri, settings.tracking_uri):
        found = _find(uri, settings.tracking_uri)
    held = found.digest is not None and copies.holds(found.digest)
    digest = found.digest if held and found.digest else _fetch(copies, found, settings)
    return Copy(copies.path(digest), found.name, found.version or digest[:12], uri, digest)


def _find(uri: str, tracking_uri: str) -> _Found:
    parts = urlsplit(uri)
    path = parts.path.strip("/")
    if parts.scheme in ("models", "runs"):
        refuse_missing_database(tracking_uri)
    # Imported here: a model in a local folder needs none of MLflow.
    import mlflow  # noqa: PLC0415

    mlflow.set_tracking_uri(tracking_uri)
    if parts.scheme != "models" or _LOGGED_MODEL.fullmatch(path):
        return _Found(uri, Path(path).name, None, None)
    version = _version(mlflow.MlflowClient(), uri, path)
    # Stored under its number, whatever alias or stage led to it.
    return _Found(
        f"models:/{version.name}/{version.version}", version.name, str(version.version), version.tags.get(DIGEST_TAG)
    )


def _version(client: Any, uri: str, path: str) -> Any:
    """The registered version that ``models:/<path>`` means, by number, alias or stage, or ``latest``."""
    name, _, wanted = path.rpartition("/")
    if "@" in path:
        name, _, alias = path.rpartition("@")
        return client.get_model_version_by_alias(name, alias)
    if not name:
        raise ModelError(f"MODEL_URI={uri!r}: expected models:/<name>/<version or stage> or models:/<name>@<alias>")
    if wanted.isdigit():
        return client.get_model_version(name, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, and still what teams have
        versions = client.get_latest_versions(name, None if wanted == "latest" else [wanted])
    if not versions:
        raise ModelError(f"MODEL_URI={uri!r}: the registry has no version of {name!r} in the stage {wanted!r}")
    return max(versions, key=lambda version: int(version.version))


def refuse_missing_database(tracking_uri: str) -> None:
    """SQLite would make an empty database where one was moved away, and then say that there is no such model.

    Raises:
        RegistryError: there is none in that file.
    """
    if tracking_uri.startswith("sqlite:///"):
        path = Path(tracking_uri.removeprefix("sqlite:///"))
        if not path.is_file():
            raise RegistryError(f"the registry's database {path} is not there")


def _fetch(copies: Copies, found: _Found, settings: Settings) -> str:
    """Download, verify and keep a model; the digest it has."""
    import mlflow.artifacts  # noqa: PLC0415

    # A version that is registered, but whose files are gone, is no reason to say that there is no such model.
    lost = RegistryError if found.version else ModelError
    with copies.aside() as aside, _explained(settings.model_uri, settings.tracking_uri, not_there=lost):
        fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=found.artifact_uri, dst_path=str(aside)))
        if not (fetched / "MLmodel").is_file():
            raise RegistryError(f"MODEL_URI={settings.model_uri!r}: what the registry gave has no file MLmodel")
        digest = folder_digest(fetched)
        if found.digest not in (None, digest):
            raise RegistryError(
                f"MODEL_URI={settings.model_uri!r}: the model's files are not what was registered: "
                f"digest {digest[:12]}, expected {str(found.digest)[:12]}"
            )
        copies.add(fetched, digest)
    return digest


@contextmanager
def _explained(uri: str, tracking_uri: str, not_there: type[StartError] = ModelError) -> Iterator[None]:
    """MLflow's many errors as two: there is no such model, or the registry did not give it."""
    # Both are loaded with MLflow anyway.
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        yield
    except StartError:
        raise
    except MlflowException as error:
        reason = _first_line(error)
        if error.error_code in _NOT_THERE or reason.startswith("No versions of model"):
            raise not_there(_public(f"MODEL_URI={uri!r}: {reason} (registry {tracking_uri})")) from error
        raise RegistryError(_public(f"the registry {tracking_uri} did not answer: {reason}")) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise RegistryError(_public(f"the registry {tracking_uri} did not answer: {reason}")) from error


def _first_line(error: Exception) -> str:
    line = _public(first_line(error))  # before a cut could hide what ends a password
    if caused := _CAUSE.search(line):
        line = caused[1]
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def _public(text: str) -> str:
    """A text without the passwords of the URIs in it: MLflow's own words quote them, and /health shows ours."""
    return re.sub(r"://([^/\s:@]*):[^/\s]*@", r"://\1:***@", text)


def main() -> int:
    """Print the resolved copy, or the error, as one JSON document."""
    logging.basicConfig(stream=sys.stderr, level="WARNING", format="%(levelname)s %(message)s")
    for noisy in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(noisy).setLevel("ERROR")
    try:
        print(json.dumps({"copy": resolve(Settings.from_env(os.environ)).to_json()}))
    except StartError as error:
        print(json.dumps({"error": str(error), "found": False if isinstance(error, ModelError) else None}))
        return 1
    except OSError as error:
        print(json.dumps({"error": f"cannot keep a copy of the model: {error}", "found": None}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
