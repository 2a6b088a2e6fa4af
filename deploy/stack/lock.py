"""One command at a time changes a stack."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.stack.paths import Layout


@contextmanager
def locked(layout: Layout, name: str = "lock") -> Iterator[None]:
    """Wait until no other command changes this stack; by another name, until no other does what that stands for."""
    layout.make()
    with (layout.var / f".{name}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another command is at work on this stack: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
