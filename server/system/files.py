"""Files that settings name: whatever is at their path, reading them ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path

LARGEST = 1_048_576


def read_small(path: Path) -> bytes:
    """What is in a file of at most ``LARGEST`` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or a pipe, a device or the like.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return text


def _without_waiting(path: str, flags: int) -> int:
    # Else to open a pipe is to wait for who writes into it.
    return os.open(path, flags | os.O_NONBLOCK)
