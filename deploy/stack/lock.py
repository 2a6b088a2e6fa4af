"""The lock that lets only one command at a time change a stack."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.stack.paths import Layout


@contextmanager
def locked(layout: Layout, name: str = "lock") -> Iterator[None]:
    """Hold a lock of this stack, waiting for the command that holds it; ``name`` chooses among the stack's locks."""
    layout.make()
    with (layout.var / f".{name}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another command that changes this stack", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
