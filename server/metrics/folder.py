"""The folder in memory where the workers of a replica keep their counts, so that each can answer for all.

prometheus_client writes files for each process, by default under its id. Here they are under the slot of a worker
(server/accept.py): the next worker in a slot goes on where the last one stopped. So no count is lost with a worker that
was killed, none ever goes down, and there are only as many files as workers were alive at the same time.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import MutableMapping
from hashlib import sha256
from pathlib import Path

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of this user alone is made in it)


class Folder:
    """One for each process: the master opens it before it makes its metrics, and every worker enters it."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._slot = 0  # the master's, who counts nothing
        self._lock = -1

    def open(self, replica: str, environ: MutableMapping[str, str], under: Path = _MEMORY) -> None:
        """Make the folder, which goes with this process, and have all metrics made from now on kept in it.

        A second time, at a reload, nothing is done. ``replica`` tells which folders are left from the replica's masters
        of before: they are deleted.
        """
        if self.path is not None:
            return
        prefix = f"forkcast-{sha256(replica.encode()).hexdigest()[:16]}-"
        for old in under.glob(f"{prefix}*"):
            _delete_if_left(old)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=under))
        self._lock = _locked(self.path)
        atexit.register(self._delete, os.getpid())
        environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.path)
        values.ValueClass = values.MultiProcessValue(lambda: self._slot)  # type: ignore[no-untyped-call]

    def enter(self, slot: int) -> None:
        """Count as the worker in ``slot``. The lock stays with the master: it says whether that lives."""
        os.close(self._lock)
        self._slot = slot

    def leave(self, slot: int) -> None:
        """The worker in ``slot`` has gone, and with it what it published; what it counted stays."""
        mark_process_dead(slot, self.path)  # type: ignore[no-untyped-call]

    def _delete(self, master: int) -> None:
        if self.path is not None and os.getpid() == master:
            shutil.rmtree(self.path, ignore_errors=True)


FOLDER = Folder()


def _locked(folder: Path) -> int:
    """Held as long as the file descriptor is open.

    Raises:
        OSError: another process holds it, or the folder is not ours.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _delete_if_left(folder: Path) -> None:
    try:
        lock = _locked(folder)
    except OSError:  # its master lives
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
