"""Reading small files that settings name, and replacing files while other processes read them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

# The largest file that `read_small_file` reads.
MAX_FILE_BYTES = 1_048_576


def read_small_file(path: Path) -> bytes:
    """Return the content of a regular file of at most ``MAX_FILE_BYTES`` bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is larger, or is a pipe, a device or another special file.
    """
    with open(path, "rb", opener=_open_nonblocking) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("expected a regular file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"expected a file of at most {MAX_FILE_BYTES} bytes, got a larger one")
    return content


def _open_nonblocking(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe blocks until another process opens it for writing.
    return os.open(path, flags | os.O_NONBLOCK)


def write_atomically(path: Path, content: str | bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Replace a file by one rename, so that readers see the old content or the new, never a mixture.

    A symbolic link stays, and the file that it points to is replaced. ``durable`` waits until the content is on disk.

    Raises:
        OSError: the file cannot be written; the old file is unchanged.
    """
    path = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        os.fchmod(descriptor, mode)
        temporary.write_text(content) if isinstance(content, str) else temporary.write_bytes(content)
        if durable:
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
