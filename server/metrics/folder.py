"""The folder in shared memory where a replica's workers keep their metrics, so that any of them can answer a scrape.

prometheus_client writes files for each process, by default named after the process id. Here they are named after the
worker's slot (server/workers/balancing.py), and the next worker in a slot continues the counts of its predecessor. So a
killed worker loses no counts, counters never decrease, and there are only as many files as workers that ran at once.
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

# Room for the files of a few workers: bytes, and number of files.
_MIN_FREE_BYTES, _MIN_FREE_FILES = 2**20, 16
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder that only this user may read is created in it)


class Value:
    """A number in one of this process's files, changed in 0.1 us; a prediction changes nine of them.

    The class of prometheus_client that this one replaces takes a microsecond, for a lock and for checks of the process
    id and of the file. Neither is needed here: one thread at a time changes a number, and `MetricsFolder.enter_slot`
    reopens all numbers after a fork.
    """

    def __init__(self, folder: MetricsFolder, file_type: str, key: str) -> None:
        self._folder = folder
        self._file_type = file_type
        self._key = key
        self.open()

    def open(self) -> None:
        """Map the number's place in its file, and continue from the value there."""
        file = self._folder.file(self._file_type)
        self._value: float = file.read_value(self._key)[0]  # type: ignore[no-untyped-call]
        # A file that grows is mapped again; this view of the old mapping stays valid.
        self._numbers = memoryview(file._m).cast("d")
        self._index = file._positions[self._key] // self._numbers.itemsize

    def inc(self, amount: float) -> None:
        """Add ``amount`` to the number."""
        self._value += amount
        self._numbers[self._index] = self._value

    def set(self, value: float) -> None:
        """Set the number to ``value``."""
        self._value = self._numbers[self._index] = value

    def get(self) -> float:
        """Return the number's value in this process."""
        return self._value

    def close(self) -> None:
        """Release the mapped file."""
        self._numbers.release()


class MetricsFolder:
    """The folder of one replica: its master opens it before it creates its metrics, and each worker enters a slot."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._slot = 0  # the slot of the master, which counts nothing
        self._master_pid = 0
        self._lock = -1
        self._files: dict[str, MmapedDict] = {}
        self._values: list[Value] = []

    def open(self, parent: Path = _SHARED_MEMORY) -> None:
        """Create the folder and keep in it all metrics created from now on; delete it when this process exits.

        Delete the folders of masters that were killed, too. Do nothing if the folder is open, as at a reload.

        Raises:
            OSError: the folder cannot be created, or there is no room for its files.
        """
        if self.path is not None:
            return
        for folder in parent.glob("forkcast-*"):
            _delete_if_abandoned(folder)
        _check_free_space(parent)
        hidden = Path(tempfile.mkdtemp(prefix=".forkcast-", dir=parent))
        self._master_pid, self._lock = os.getpid(), _lock(hidden)
        # Renamed only now that it is locked: an unlocked folder of this name counts as abandoned.
        self.path = hidden.rename(parent / hidden.name[1:])
        atexit.register(self.delete)
        values.ValueClass = self._make_value

    def enter_slot(self, slot: int) -> None:
        """Count in the files of ``slot``, in a worker after the fork."""
        # Only the master keeps the lock, which shows other masters that it is alive.
        if self._lock >= 0:
            os.close(self._lock)
        self._lock, self._slot = -1, slot
        if self.path is not None:
            # Some systems delete a user's files in /dev/shm at logout; a worker must start nevertheless.
            self.path.mkdir(mode=0o700, exist_ok=True)
        files_of_master, self._files = self._files, {}
        for value in self._values:
            value.open()
        for file in files_of_master.values():
            file.close()  # type: ignore[no-untyped-call]

    def leave_slot(self, slot: int) -> None:
        """Delete the gauges of the worker in ``slot``, which has ended; its counters stay."""
        mark_process_dead(slot, self.path)  # type: ignore[no-untyped-call]

    def delete(self) -> None:
        """Delete the folder if this is the process that created it; do nothing in a worker."""
        if self.path is None or os.getpid() != self._master_pid:
            return
        for value in self._values:
            value.close()
        for file in self._files.values():
            file.close()  # type: ignore[no-untyped-call]
        shutil.rmtree(self.path, ignore_errors=True)
        self.path = None

    def file(self, file_type: str) -> MmapedDict:
        """Return this process's file for metrics of one type: "counter", "histogram" or "gauge_livesum"."""
        if file_type not in self._files:
            path = f"{self.path}/{file_type}_{self._slot}.db"
            self._files[file_type] = MmapedDict(path)  # type: ignore[no-untyped-call]
        return self._files[file_type]

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
        file_type = f"{typ}_{multiprocess_mode}" if multiprocess_mode else typ
        key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        self._values.append(Value(self, file_type, key))
        return self._values[-1]


METRICS_FOLDER = MetricsFolder()


def _lock(folder: Path) -> int:
    """Lock a folder, and return the file descriptor that holds the lock as long as it is open.

    Raises:
        OSError: another process holds the lock, or this user may not open the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_free_space(folder: Path) -> None:
    # Writing to a mapped file that has no room kills the process by SIGBUS, without a message.
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < _MIN_FREE_BYTES or (free.f_files and free.f_favail < _MIN_FREE_FILES):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _delete_if_abandoned(folder: Path) -> None:
    try:
        lock = _lock(folder)
    except OSError:  # its master is alive
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
