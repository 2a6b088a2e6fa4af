"""A simulation of macOS: no CPU affinity, no /proc, no /sys, and no thread ids that work as process ids."""

from __future__ import annotations

import builtins
import io
import os
import resource
import select
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # programs that import this need no pytest
    import pytest

# With this folder on PYTHONPATH, Python programs and their children simulate macOS from their start.
PROGRAMS = Path(__file__).parent / "programs" / "macos"

_LINUX_ONLY: dict[ModuleType, tuple[str, ...]] = {
    os: (
        "sched_", "memfd_create", "eventfd", "pidfd_open", "posix_fadvise", "posix_fallocate", "fdatasync", "pipe2",
        "splice", "copy_file_range", "getrandom", "setns", "unshare", "O_TMPFILE", "O_PATH", "O_DIRECT",
    ),
    resource: ("prlimit",),
    select: ("epoll", "EPOLL"),
    socket: ("SO_PEERCRED", "AF_NETLINK", "SOCK_NONBLOCK", "SOCK_CLOEXEC"),
}  # fmt: skip
_READERS: dict[ModuleType, tuple[str, ...]] = {
    builtins: ("open",),
    io: ("open",),
    os: ("open", "stat", "lstat", "listdir", "scandir", "readlink", "access"),
}
_NO_FOLDERS = ("/proc", "/sys")


class PermanentPatch:
    """A replacement for pytest's MonkeyPatch whose changes are never undone."""

    setattr = staticmethod(setattr)
    delattr = staticmethod(delattr)


def pretend(patch: pytest.MonkeyPatch | PermanentPatch) -> None:
    """Remove from this process what macOS does not have."""
    patch.setattr(sys, "platform", "darwin")
    # Python on macOS imports this module to read the system's proxies.
    scproxy: Any = ModuleType("_scproxy")
    scproxy._get_proxy_settings = scproxy._get_proxies = dict
    sys.modules.setdefault("_scproxy", scproxy)
    for module, starts in _LINUX_ONLY.items():
        for name in [name for name in dir(module) if name.startswith(starts)]:
            patch.delattr(module, name)
    for module, names in _READERS.items():
        for name in names:
            patch.setattr(module, name, _without_linux_folders(getattr(module, name)))
    patch.setattr(os, "setpriority", _for_processes_only(os.setpriority))


def _without_linux_folders(read: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``read``, a function of the `os` module or `open`, such that it finds nothing in /proc and /sys."""

    def filtered(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        text = path if isinstance(path, int) else os.fspath(path)
        if isinstance(text, str) and any(text == folder or text.startswith(f"{folder}/") for folder in _NO_FOLDERS):
            raise FileNotFoundError(2, "No such file or directory", text)
        return read(path, *arguments, **options)

    return filtered


def _for_processes_only(setpriority: Callable[[int, int, int], None]) -> Callable[[int, int, int], None]:
    """Return `os.setpriority` such that it refuses the ids of threads, which macOS does not know as process ids."""

    def refusing(which: int, who: int, priority: int) -> None:
        threads = {thread.native_id for thread in threading.enumerate()} - {os.getpid()}
        if which == os.PRIO_PROCESS and who in threads:
            raise PermissionError(1, "Operation not permitted")
        setpriority(which, who, priority)

    return refusing
