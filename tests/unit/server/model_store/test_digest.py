"""Tests of the digest of a model's folder: which changes it depends on and which it ignores."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from server.model_store.digest import folder_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "model.skops").write_bytes(bytes(range(256)) * 10_000)
    (folder / "code" / "own.py").write_text("x = 1\n")
    return folder


def test_digest_is_sha256_over_sorted_paths(tmp_path: Path) -> None:
    """The digest is the SHA-256 over one line per file in the order of the paths, which other programs can compute."""
    (tmp_path / "b").mkdir()
    lines = b""
    for name, content in (("a", b"1"), ("b/c", b""), ("d", b"2")):
        (tmp_path / name).write_bytes(content)
        lines += f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode()
    assert folder_digest(tmp_path) == hashlib.sha256(lines).hexdigest()


def test_digest_ignores_location_and_times(folder: Path, tmp_path: Path) -> None:
    """A copy elsewhere, with other times, has the same digest."""
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)
    assert folder_digest(copy) == folder_digest(folder)


def test_any_file_change_changes_the_digest(folder: Path) -> None:
    """The digest changes with a flipped bit, a renamed file, an additional file and a missing file."""
    digests = [folder_digest(folder)]
    content = bytearray((folder / "model.skops").read_bytes())
    content[1_000_000] ^= 1
    (folder / "model.skops").write_bytes(content)
    digests.append(folder_digest(folder))
    (folder / "code" / "own.py").rename(folder / "code" / "owN.py")
    digests.append(folder_digest(folder))
    (folder / "code" / "owN.py").rename(folder / "owN.py")
    digests.append(folder_digest(folder))
    (folder / "more").touch()
    digests.append(folder_digest(folder))
    (folder / "MLmodel").unlink()
    digests.append(folder_digest(folder))
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("name", ["registered_model_meta", "code/__pycache__/own.cpython-311.pyc"])
def test_digest_ignores_mlflow_and_bytecode_files(folder: Path, name: str) -> None:
    """The digest ignores the file that MLflow adds to a download, and the bytecode that Python adds to code."""
    initial = folder_digest(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("added later")
    assert folder_digest(folder) == initial


def test_file_named_like_mlflows_in_a_subfolder_counts(folder: Path) -> None:
    """MLflow's file is ignored only in the model's folder itself; in a subfolder, a file of that name counts."""
    initial = folder_digest(folder)
    (folder / "code" / "registered_model_meta").touch()
    assert folder_digest(folder) != initial


def test_empty_folder_has_the_empty_digest(tmp_path: Path) -> None:
    """An empty or missing folder has the digest of no files, which no model has."""
    assert folder_digest(tmp_path) == folder_digest(tmp_path / "none") == hashlib.sha256().hexdigest()
