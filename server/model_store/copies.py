"""The folder of last good copies, ``var/models/<digest>/``, which the replicas of one host share.

``model/`` holds exactly the registered files. ``uris/<key>.json`` records the result of resolving each model URI that
led to this copy. A copy is written to a temporary folder, verified, and then renamed, so that it is never incomplete.

``current.json``, if it exists, names the copy that replicas without a registry serve; ``MODEL_URI`` may be its path.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from server.errors import ModelError
from server.model_store.digest import folder_digest
from server.system.files import write_atomically

logger = logging.getLogger(__name__)

# The id that MLflow 3 gives a logged model, registered or not.
LOGGED_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Copy:
    """A model's folder on this host, with the name, the version and the URI that it is a copy of.

    The name is that of the registered or logged model, or of a folder. Clients may know it by another one, see
    :func:`server.engines.loading.client_name`.

    ``stale`` is the reason why this is the last good copy instead of the registry's answer, or None. ``needs`` is the
    memory of a process that has loaded the model and predicted (bytes), if it was measured. ``stamp`` identifies the
    state of the registry that gave this answer, if that can be read without MLflow.
    """

    model_folder: Path
    name: str
    version: str
    uri: str
    digest: str
    stale: str | None = None
    needs: int | None = None
    stamp: str | None = None

    @property
    def registered(self) -> bool:
        """Whether name and version are those of a registered model, and not derived from a folder or a run."""
        return urlsplit(self.uri).scheme == "models" and self.version.isdecimal() and self.version != self.digest[:12]

    @property
    def registered_name(self) -> str | None:
        """The name of the registered model, or None if the model is not registered."""
        return self.name if self.registered else None

    def to_json(self) -> dict[str, object]:
        """Return the fields as plain JSON values, for records and for the result of the resolver's process."""
        return {**asdict(self), "model_folder": str(self.model_folder)}

    @classmethod
    def from_json(cls, document: dict[str, str]) -> Copy:
        """Return the copy that :meth:`to_json` described."""
        return cls(**{**document, "model_folder": Path(document["model_folder"])})  # type: ignore[arg-type]

    @classmethod
    def from_record(cls, record: Path) -> Copy:
        """Return the copy that a record names, after verifying its digest.

        Raises:
            ModelError: the record is missing or invalid, or the copy is missing or damaged.
        """
        try:
            copy = cls.from_json(json.loads(record.read_bytes()))
        except FileNotFoundError:
            raise ModelError(f"{record} does not exist: no model has been stored there yet") from None
        except (OSError, ValueError, TypeError, KeyError):
            raise ModelError(f"{record} is not a valid record of a model copy") from None
        if not copy.model_folder.is_dir() or folder_digest(copy.model_folder) != copy.digest:
            raise ModelError(f"{record}: the copy {copy.model_folder} is missing or damaged")
        return copy


class Copies:
    """The copies in one folder, which is created when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait for the lock that keeps replicas of one host from downloading the same model at the same time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def staging_folder(self) -> Iterator[Path]:
        """Provide an empty folder on the same file system, which is deleted afterwards."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def path(self, digest: str) -> Path:
        """Return the folder of the model with this digest, whether or not it exists."""
        return self._folder / digest / "model"

    def holds(self, digest: str) -> bool:
        """Return whether there is an undamaged copy with this digest."""
        path = self.path(digest)
        if not path.is_dir():
            return False
        if folder_digest(path) == digest:
            return True
        logger.warning("the copy %s is damaged and is not used", path)
        return False

    def add(self, downloaded: Path, digest: str) -> None:
        """Move a downloaded model's folder into the store; its digest must have been verified."""
        home = self._folder / digest
        shutil.rmtree(home / "model", ignore_errors=True)  # a damaged copy may be in its place
        home.mkdir(parents=True, exist_ok=True)
        downloaded.rename(home / "model")

    def record(self, copy: Copy, tracking_uri: str) -> None:
        """Record that the copy's URI has just been resolved to this copy."""
        path = self._folder / copy.digest / "uris" / f"{_uri_key(copy.uri, tracking_uri)}.json"
        path.parent.mkdir(exist_ok=True)
        _write_record(path, copy)

    def make_current(self, copy: Copy) -> None:
        """Write ``current.json``, so that replicas that read it serve this copy from their next start on."""
        current = self._folder / "current.json"
        if current.exists():
            shutil.copyfile(current, self._folder / "previous.json")
        _write_record(current, copy)

    def restore_previous(self) -> None:
        """Undo the last :meth:`make_current`."""
        previous = self._folder / "previous.json"
        if previous.exists():
            previous.replace(self._folder / "current.json")

    def last_good(self, uri: str, tracking_uri: str, reason: str) -> Copy | None:
        """Return the undamaged copy that this URI was last resolved to, marked as stale for ``reason``, or None."""
        for copy in self._records(uri, tracking_uri):
            if self.holds(copy.digest):
                return replace(copy, model_folder=self.path(copy.digest), stale=reason)
        return None

    def unchanged(self, uri: str, tracking_uri: str, stamp: str) -> Copy | None:
        """Return the undamaged copy that this URI was last resolved to, if the registry has the same stamp, or None."""
        copy = next(self._records(uri, tracking_uri), None)
        if copy is None or copy.stamp != stamp or not self.holds(copy.digest):
            return None
        return replace(copy, model_folder=self.path(copy.digest))

    def _records(self, uri: str, tracking_uri: str) -> Iterator[Copy]:
        """Yield the copies that this URI was resolved to, the latest first."""
        records = list(self._folder.glob(f"*/uris/{_uri_key(uri, tracking_uri)}.json"))
        for path in sorted(records, key=lambda p: p.stat().st_mtime_ns, reverse=True):
            try:
                yield Copy.from_json(json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError, KeyError):
                logger.warning("the record %s is damaged and is not used", path)


def _write_record(path: Path, copy: Copy) -> None:
    write_atomically(path, json.dumps(copy.to_json()))


def _uri_key(uri: str, tracking_uri: str) -> str:
    return hashlib.sha256(f"{tracking_uri}\n{uri}".encode()).hexdigest()[:16]
