"""`python -m deploy.backends.local.takeover nginx ...`: stop the orphaned workers of a killed Nginx, then run Nginx.

Workers of a master that was killed with SIGKILL keep running and hold the port, and its status socket stays as a file.
The next Nginx could bind neither.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from deploy.backends.local.nginx import STATUS_SOCKET

# How long to wait for the workers: they close the listening port at once, and connections after their requests.
_ORPHAN_TIMEOUT_SECONDS = 2.0


def orphans(folder: Path) -> Iterator[psutil.Process]:
    """Yield the Nginx processes with this working directory whose parent is not an Nginx."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            parent = process.parent()
            is_orphan = parent is None or parent.name() != "nginx"
            if process.name() == "nginx" and process.cwd() == str(folder) and is_orphan:
                yield process


def main(command: list[str]) -> None:
    """Let orphaned workers finish, then replace this process by ``command``."""
    workers = list(orphans(Path.cwd()))
    for process in workers:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGQUIT)
    psutil.wait_procs(workers, timeout=_ORPHAN_TIMEOUT_SECONDS)
    Path(STATUS_SOCKET).unlink(missing_ok=True)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
