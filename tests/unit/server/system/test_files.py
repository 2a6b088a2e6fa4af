"""Tests of reading small files and of replacing files while other processes read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from server.system.files import MAX_FILE_BYTES, read_small_file, write_atomically


@pytest.mark.parametrize("content", ["new\n", b"new\n"])
def test_file_is_replaced_atomically(tmp_path: Path, content: str | bytes) -> None:
    """An open file keeps its old content, the new file has the new permissions, and no temporary file remains."""
    path = tmp_path / "file"
    path.write_text("old\n")
    with path.open() as old:
        write_atomically(path, content, 0o600)
        assert old.read() == "old\n"
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full, the old file is unchanged and no temporary file remains."""

    def fail_to_write(path: Path, _content: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    path = tmp_path / "file"
    path.write_text("old\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail_to_write)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, "new\n")
    assert path.read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writing_through_a_symbolic_link_replaces_its_target(tmp_path: Path) -> None:
    """Writing to a symbolic link replaces the file that it points to and keeps the link."""
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "new\n", durable=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new\n"


def test_file_above_the_size_limit_is_refused(tmp_path: Path) -> None:
    """A file of exactly the largest size is read, and one byte more is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * MAX_FILE_BYTES)
    assert len(read_small_file(path)) == MAX_FILE_BYTES
    path.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ValueError, match=f"at most {MAX_FILE_BYTES} bytes"):
        read_small_file(path)


def test_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    """Reading a pipe that has no writer fails at once instead of blocking."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="expected a regular file"):
        read_small_file(tmp_path / "pipe")
