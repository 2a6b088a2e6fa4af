"""The platform as macOS has it: no CPU affinity, no /proc, no /sys, and no id of a thread that is one of a process."""

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

if TYPE_CHECKING:  # the programs that pretend for good have no pytest
    import pytest

# To be put on PYTHONPATH, so that a program pretends from its start, and those that it starts too.
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


class ForGood:
    """Changes that are not taken back, as pytest's MonkeyPatch does with a test's."""

    setattr = staticmethod(setattr)
    delattr = staticmethod(delattr)


def pretend(patch: pytest.MonkeyPatch | ForGood) -> None:
    """Take from this process what macOS does not have."""
    patch.setattr(sys, "platform", "darwin")
    # What Python on macOS asks for the system's proxies.
    scproxy: Any = ModuleType("_scproxy")
    scproxy._get_proxy_settings = scproxy._get_proxies = dict
    sys.modules.setdefault("_scproxy", scproxy)
    for module, starts in _LINUX_ONLY.items():
        for name in [name for name in dir(module) if name.startswith(starts)]:
            patch.delattr(module, name)
    for module, names in _READERS.items():
        for name in names:
            patch.setattr(module, name, _blind(getattr(module, name)))
    patch.setattr(os, "setpriority", _for_processes_alone(os.setpriority))


def _blind(read: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the `os` module, or `open`, that finds nothing in /proc and /sys."""

    def blind(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        text = path if isinstance(path, int) else os.fspath(path)
        if isinstance(text, str) and any(text == folder or text.startswith(f"{folder}/") for folder in _NO_FOLDERS):
            raise FileNotFoundError(2, "No such file or directory", text)
        return read(path, *arguments, **options)

    return blind


def _for_processes_alone(setpriority: Callable[[int, int, int], None]) -> Callable[[int, int, int], None]:
    """Return `os.setpriority` where a thread's id is that of nobody, or of a process that is another user's."""

    def refusing(kind: int, number: int, nice: int) -> None:
        threads = {thread.native_id for thread in threading.enumerate()} - {os.getpid()}
        if kind == os.PRIO_PROCESS and number in threads:
            raise PermissionError(1, "Operation not permitted")
        setpriority(kind, number, nice)

    return refusing
