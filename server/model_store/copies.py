"""The folder of last good copies: ``var/models/<digest>/``, shared by the replicas of one host.

``model/`` is exactly what was registered. ``uris/<key>.json`` records, for each model URI that led to this copy, what
it was resolved to. A copy appears whole or not at all: it is written aside, verified, and renamed.

``current.json``, where there is one, names the copy that replicas without a registry serve: ``MODEL_URI`` may be its
path.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
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


@dataclass(frozen=True, slots=True)
class Copy:
    """A model's folder on this host, and what it is a copy of.

    ``stale`` says why the registry was not asked; ``needs`` is the memory, in bytes, of a process that has loaded it
    and predicted, where that was measured; ``stamp`` tells the state of the registry that gave this answer, where that
    can be told without asking it.
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
        """Whether name and version are those of a registered model, and not made up from a folder's or a run's."""
        return urlsplit(self.uri).scheme == "models" and self.version.isdecimal() and self.version != self.digest[:12]

    def to_json(self) -> dict[str, object]:
        """As plain JSON values, for the record and for the resolver's answer."""
        return {**asdict(self), "model_folder": str(self.model_folder)}

    @classmethod
    def from_json(cls, document: dict[str, str]) -> Copy:
        """The inverse of :meth:`to_json`."""
        return cls(**{**document, "model_folder": Path(document["model_folder"])})  # type: ignore[arg-type]

    @classmethod
    def recorded(cls, record: Path) -> Copy:
        """The copy that a record names, if it is undamaged.

        Raises:
            ModelError: there is no such record, or the copy is not what it says.
        """
        try:
            copy = cls.from_json(json.loads(record.read_bytes()))
        except FileNotFoundError:
            raise ModelError(f"there is no {record}: nobody has brought a model there yet") from None
        except (OSError, ValueError, TypeError, KeyError):
            raise ModelError(f"{record} is no record of a model's copy") from None
        if not copy.model_folder.is_dir() or folder_digest(copy.model_folder) != copy.digest:
            raise ModelError(f"{record}: the copy {copy.model_folder} is missing or damaged")
        return copy


class Copies:
    """The copies under one folder, which is made when the first is added."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the other replicas of this host from fetching the same model at the same time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """An empty folder on the same file system, gone afterwards unless it was added."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def path(self, digest: str) -> Path:
        """Where the model with this digest is, or would be."""
        return self._folder / digest / "model"

    def holds(self, digest: str) -> bool:
        """Whether a copy with this digest is here and still is what it was."""
        path = self.path(digest)
        if not path.is_dir():
            return False
        if folder_digest(path) == digest:
            return True
        logger.warning("the copy %s is damaged and is not used", path)
        return False

    def add(self, fetched: Path, digest: str) -> None:
        """Take over a fetched model's folder whose digest was verified."""
        home = self._folder / digest
        shutil.rmtree(home / "model", ignore_errors=True)  # a damaged copy
        home.mkdir(parents=True, exist_ok=True)
        fetched.rename(home / "model")

    def record(self, copy: Copy, tracking_uri: str) -> None:
        """Remember that this URI was resolved to this copy, now."""
        path = self._folder / copy.digest / "uris" / f"{_key(copy.uri, tracking_uri)}.json"
        path.parent.mkdir(exist_ok=True)
        _write(path, copy)

    def make_current(self, copy: Copy) -> None:
        """Let the replicas that read ``current.json`` serve this copy from their next start."""
        current = self._folder / "current.json"
        if current.exists():
            shutil.copyfile(current, self._folder / "previous.json")
        _write(current, copy)

    def make_previous_current(self) -> None:
        """Take the last :meth:`make_current` back."""
        previous = self._folder / "previous.json"
        if previous.exists():
            previous.replace(self._folder / "current.json")

    def last_good(self, uri: str, tracking_uri: str, why: str) -> Copy | None:
        """The undamaged copy that this URI was last resolved to, marked as stale; None if there is none."""
        for copy in self._records(uri, tracking_uri):
            if self.holds(copy.digest):
                return replace(copy, model_folder=self.path(copy.digest), stale=why)
        return None

    def still(self, uri: str, tracking_uri: str, stamp: str) -> Copy | None:
        """The undamaged copy that this URI was last resolved to, if the registry has been the same ever since."""
        copy = next(self._records(uri, tracking_uri), None)
        if copy is None or copy.stamp != stamp or not self.holds(copy.digest):
            return None
        return replace(copy, model_folder=self.path(copy.digest))

    def _records(self, uri: str, tracking_uri: str) -> Iterator[Copy]:
        """What this URI was resolved to, the latest first."""
        records = list(self._folder.glob(f"*/uris/{_key(uri, tracking_uri)}.json"))
        for path in sorted(records, key=lambda p: p.stat().st_mtime_ns, reverse=True):
            try:
                yield Copy.from_json(json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError, KeyError):
                logger.warning("the record %s is damaged and is not used", path)


def _write(path: Path, copy: Copy) -> None:
    write_atomically(path, json.dumps(copy.to_json()))


def _key(uri: str, tracking_uri: str) -> str:
    return hashlib.sha256(f"{tracking_uri}\n{uri}".encode()).hexdigest()[:16]
