"""Files that settings name, and files that others may read at any moment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from server.system.files import LARGEST, read_small, write_atomically


@pytest.mark.parametrize("content", ["new\n", b"new\n"])
def test_file_is_replaced_whole(tmp_path: Path, content: str | bytes) -> None:
    """A file is replaced by another with the new content and permissions, and no draft is left."""
    path = tmp_path / "file"
    path.write_text("old\n")
    with path.open() as old:
        write_atomically(path, content, 0o600)
        assert old.read() == "old\n"
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_file_that_cannot_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full, the old file stays as it was, and no draft is left."""

    def full(path: Path, _content: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    path = tmp_path / "file"
    path.write_text("old\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, "new\n")
    assert path.read_text() == "old\n"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_link_stays_a_link(tmp_path: Path) -> None:
    """What a link leads to is replaced, not the link."""
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "new\n", durable=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new\n"


def test_small_file_is_read(tmp_path: Path) -> None:
    """A regular file is read up to the limit, and refused beyond it."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * LARGEST)
    assert len(read_small(path)) == LARGEST
    path.write_bytes(b"x" * (LARGEST + 1))
    with pytest.raises(ValueError, match="larger than"):
        read_small(path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe without a writer is refused instead of waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_small(tmp_path / "pipe")
