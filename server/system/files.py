"""Reading files that settings name, and writing files that others may read at any moment."""

from __future__ import annotations

import os
import stat
import tempfile
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


def write_atomically(path: Path, content: str | bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Write a file that is the old one or the new one at every moment, and never half of it; a link stays a link.

    ``durable`` waits until the content is on the disk.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    path = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        os.fchmod(descriptor, mode)
        draft.write_text(content) if isinstance(content, str) else draft.write_bytes(content)
        if durable:
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
