"""The folder in memory where the workers of a replica keep their counts, so that each can answer for all.

prometheus_client writes files for each process, by default under its id. Here they are under the slot of a worker
(server/workers/balancing.py): the next worker in a slot goes on where the last one stopped. So no count is lost with a
worker that was killed, none ever goes down, and there are only as many files as workers were alive at the same time.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import mark_process_dead

# What a few workers' files take: bytes, and files.
_ROOM, _FILES = 2**20, 16
_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of this user alone is made in it)


class Value:
    """A number in one of this process's files, changed in 0.1 us, of which a prediction changes nine.

    prometheus_client's own takes a microsecond: a lock, a look at the process's id, another at the file. A number of
    ours is changed by one thread at a time, and a worker says when it begins.
    """

    def __init__(self, folder: Folder, kind: str, key: str) -> None:
        self._folder = folder
        self._kind = kind
        self._key = key
        self.open()

    def open(self) -> None:
        """Go on from what is in the file."""
        file = self._folder.file(self._kind)
        self._value: float = file.read_value(self._key)[0]  # type: ignore[no-untyped-call]
        # A file that grows is mapped anew; this view of it stays good.
        self._numbers = memoryview(file._m).cast("d")
        self._place = file._positions[self._key] // self._numbers.itemsize

    def inc(self, amount: float) -> None:
        """Add to it."""
        self._value += amount
        self._numbers[self._place] = self._value

    def set(self, value: float) -> None:
        """Change it."""
        self._value = self._numbers[self._place] = value

    def get(self) -> float:
        """What it is in this process."""
        return self._value

    def close(self) -> None:
        """Let go of the file."""
        self._numbers.release()


class Folder:
    """One for each process: the master opens it before it makes its metrics, and every worker enters it."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._slot = 0  # the master's, who counts nothing
        self._master = 0
        self._lock = -1
        self._files: dict[str, MmapedDict] = {}
        self._values: list[Value] = []

    def open(self, under: Path = _MEMORY) -> None:
        """Make the folder, which goes with this process, and have all metrics made from now on kept in it.

        A second time, at a reload, nothing is done. What masters that were killed have left is deleted.

        Raises:
            OSError: it cannot be made, or there is no room for its files.
        """
        if self.path is not None:
            return
        for old in under.glob("forkcast-*"):
            _delete_if_left(old)
        _check_room(under)
        draft = Path(tempfile.mkdtemp(prefix=".forkcast-", dir=under))
        self._master, self._lock = os.getpid(), _locked(draft)
        self.path = draft.rename(under / draft.name[1:])  # from here on it is seen, and is locked already
        atexit.register(self.delete)
        values.ValueClass = self._make_value

    def enter(self, slot: int) -> None:
        """Count as the worker in ``slot``. The lock stays with the master: it says whether that lives."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock, self._slot = -1, slot
        if self.path is not None:
            # A system may clean up behind a user who has logged out: a worker comes up all the same.
            self.path.mkdir(mode=0o700, exist_ok=True)
        masters, self._files = self._files, {}
        for value in self._values:
            value.open()
        for file in masters.values():
            file.close()  # type: ignore[no-untyped-call]

    def leave(self, slot: int) -> None:
        """The worker in ``slot`` has gone, and with it what it published; what it counted stays."""
        mark_process_dead(slot, self.path)  # type: ignore[no-untyped-call]

    def delete(self) -> None:
        """Be gone with the process that made it; a worker's end changes nothing."""
        if self.path is None or os.getpid() != self._master:
            return
        for value in self._values:
            value.close()
        for file in self._files.values():
            file.close()  # type: ignore[no-untyped-call]
        shutil.rmtree(self.path, ignore_errors=True)
        self.path = None

    def file(self, kind: str) -> MmapedDict:
        """Where this process keeps its values of one kind: "counter", "histogram", "gauge_livesum"."""
        if kind not in self._files:
            self._files[kind] = MmapedDict(f"{self.path}/{kind}_{self._slot}.db")  # type: ignore[no-untyped-call]
        return self._files[kind]

    def _make_value(  # noqa: PLR0913, PLR0917  (as prometheus_client calls it)
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
    ) -> Value:
        kind = f"{typ}_{multiprocess_mode}" if multiprocess_mode else typ
        key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        self._values.append(Value(self, kind, key))
        return self._values[-1]


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


def _check_room(under: Path) -> None:
    """A file in memory that has no room ends its process by a signal, without a word."""
    free = os.statvfs(under)
    if free.f_bavail * free.f_frsize < _ROOM or (free.f_files and free.f_favail < _FILES):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _delete_if_left(folder: Path) -> None:
    try:
        lock = _locked(folder)
    except OSError:  # its master lives
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
