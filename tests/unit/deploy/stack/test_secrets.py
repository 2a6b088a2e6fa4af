"""Secrets made once into the file of settings."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values

from deploy.stack.secrets import make_missing

NAMES = ("DATABASE_PASSWORD", "S3_ACCESS_KEY_ID")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_created_once_and_private(tmp_path: Path) -> None:
    """What is missing is made at random, for this user alone to read, and stays what it is."""
    file = tmp_path / ".env"
    made = make_missing(file, NAMES)
    assert set(made) == set(NAMES)
    assert len(set(made.values())) == 2
    assert all(len(value) >= 32 and value.isalnum() for value in made.values())
    assert dotenv_values(file) == made
    assert mode(file) == 0o600
    assert make_missing(file, NAMES) == {}
    assert dotenv_values(file) == made


@pytest.mark.parametrize("end", ["", "\n"])
def test_what_is_there_is_kept(tmp_path: Path, end: str) -> None:
    """Lines of the user's stay as they are, with what they name, and others can no longer read the file."""
    file = tmp_path / ".env"
    before = f"# mine\nHTTP_PORT=81\nDATABASE_PASSWORD=chosen-by-me{end}"
    file.write_text(before)
    file.chmod(0o644)
    made = make_missing(file, NAMES)
    assert set(made) == {"S3_ACCESS_KEY_ID"}
    assert file.read_text().startswith(before)
    assert dotenv_values(file) == {"HTTP_PORT": "81", "DATABASE_PASSWORD": "chosen-by-me", **made}
    assert mode(file) == 0o600


def test_an_existing_file_is_tightened(tmp_path: Path) -> None:
    """A file that has all secrets already, and that others could read, they can read no longer."""
    file = tmp_path / ".env"
    file.write_text("DATABASE_PASSWORD=a\nS3_ACCESS_KEY_ID=b\n")
    file.chmod(0o664)
    assert make_missing(file, NAMES) == {}
    assert mode(file) == 0o600


def test_an_empty_value_is_none(tmp_path: Path) -> None:
    """A name without a value counts as missing; the line that is added comes later, and so it counts."""
    file = tmp_path / ".env"
    file.write_text("DATABASE_PASSWORD=\n")
    made = make_missing(file, ["DATABASE_PASSWORD"])
    assert made["DATABASE_PASSWORD"]
    assert dotenv_values(file) == made


def test_failed_write_keeps_the_old_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be written, the file is what it was, and nothing is left beside it."""
    file = tmp_path / ".env"
    file.write_text("HTTP_PORT=81\n")

    def full(_path: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        make_missing(file, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
    assert file.read_text() == "HTTP_PORT=81\n"


def test_a_link_stays_one(tmp_path: Path) -> None:
    """A file that is a link to another is written where it leads."""
    (tmp_path / "kept").mkdir()
    target, file = tmp_path / "kept/settings", tmp_path / ".env"
    target.write_text("HTTP_PORT=81\n")
    file.symlink_to(target)
    made = make_missing(file, NAMES)
    assert file.is_symlink()
    assert dotenv_values(target) == {"HTTP_PORT": "81", **made}
