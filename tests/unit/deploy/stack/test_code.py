"""Tests of the digest that shows whether a replica was started from other code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.stack.code import code_digest
from deploy.stack.paths import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The path of a copy of the code that replicas run."""
    shutil.copytree(ROOT / "server", tmp_path / "server", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "gunicorn.conf.py", tmp_path)
    return tmp_path


def test_copy_has_the_same_digest(checkout: Path) -> None:
    """The digest depends on the code only, not on the path of the checkout and not on bytecode."""
    (checkout / "server" / "__pycache__").mkdir()
    (checkout / "server" / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"compiled")
    assert code_digest(checkout) == code_digest()
    assert len(code_digest()) == 16


@pytest.mark.parametrize("file", ["gunicorn.conf.py", "server/main.py", "server/protocols/endpoint.py"])
def test_changed_file_changes_the_digest(checkout: Path, file: str) -> None:
    """A change of any file that a replica runs changes the digest."""
    (checkout / file).write_text((checkout / file).read_text() + "# changed\n")
    assert code_digest(checkout) != code_digest()


def test_moved_file_changes_the_digest(checkout: Path) -> None:
    """Renaming a file changes the digest."""
    (checkout / "server/main.py").rename(checkout / "server/start.py")
    assert code_digest(checkout) != code_digest()
