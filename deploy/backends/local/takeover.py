"""`python -m deploy.backends.local.takeover nginx ...`: become Nginx, once the workers of one that was killed are gone.

Workers of a master that was killed with -9 live on and hold the port: the next Nginx could not bind it. Nor could it
bind the socket of its status, which stays behind as a file.
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

_PATIENCE = 2.0  # seconds; they let go of the port at once, and of their connections when those are done


def orphans(folder: Path) -> Iterator[psutil.Process]:
    """Nginx processes that work in ``folder`` and have no Nginx above them."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            parent = process.parent()
            leads = parent is None or parent.name() != "nginx"
            if process.name() == "nginx" and process.cwd() == str(folder) and leads:
                yield process


def main(command: list[str]) -> None:
    """Let orphans finish, then run ``command`` in this process's place."""
    left = list(orphans(Path.cwd()))
    for process in left:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGQUIT)
    psutil.wait_procs(left, timeout=_PATIENCE)
    Path(STATUS_SOCKET).unlink(missing_ok=True)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
