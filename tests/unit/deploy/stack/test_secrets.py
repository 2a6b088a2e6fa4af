"""Tests of the random secrets in the file of settings."""

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
    """Missing secrets are generated once, into a file that only this user can read."""
    file = tmp_path / ".env"
    generated = make_missing(file, NAMES)
    assert set(generated) == set(NAMES)
    assert len(set(generated.values())) == 2
    assert all(len(value) >= 32 and value.isalnum() for value in generated.values())
    assert dotenv_values(file) == generated
    assert mode(file) == 0o600
    assert make_missing(file, NAMES) == {}
    assert dotenv_values(file) == generated


@pytest.mark.parametrize("end", ["", "\n"])
def test_existing_lines_are_kept(tmp_path: Path, end: str) -> None:
    """Existing lines and secrets stay unchanged, and other users can no longer read the file."""
    file = tmp_path / ".env"
    original = f"# mine\nHTTP_PORT=81\nDATABASE_PASSWORD=chosen-by-me{end}"
    file.write_text(original)
    file.chmod(0o644)
    generated = make_missing(file, NAMES)
    assert set(generated) == {"S3_ACCESS_KEY_ID"}
    assert file.read_text().startswith(original)
    assert dotenv_values(file) == {"HTTP_PORT": "81", "DATABASE_PASSWORD": "chosen-by-me", **generated}
    assert mode(file) == 0o600


def test_complete_file_becomes_private(tmp_path: Path) -> None:
    """A file that already has all secrets becomes unreadable to other users."""
    file = tmp_path / ".env"
    file.write_text("DATABASE_PASSWORD=a\nS3_ACCESS_KEY_ID=b\n")
    file.chmod(0o664)
    assert make_missing(file, NAMES) == {}
    assert mode(file) == 0o600


def test_secret_with_empty_value_is_generated(tmp_path: Path) -> None:
    """A secret with an empty value is generated and appended, where it overrides the empty line."""
    file = tmp_path / ".env"
    file.write_text("DATABASE_PASSWORD=\n")
    generated = make_missing(file, ["DATABASE_PASSWORD"])
    assert generated["DATABASE_PASSWORD"]
    assert dotenv_values(file) == generated


def test_failed_write_keeps_the_old_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails, the file is unchanged and no temporary file remains."""
    file = tmp_path / ".env"
    file.write_text("HTTP_PORT=81\n")

    def fail(_path: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        make_missing(file, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
    assert file.read_text() == "HTTP_PORT=81\n"


def test_target_of_a_link_is_written(tmp_path: Path) -> None:
    """If the file is a symbolic link, its target is written and the link stays."""
    (tmp_path / "kept").mkdir()
    target, file = tmp_path / "kept/settings", tmp_path / ".env"
    target.write_text("HTTP_PORT=81\n")
    file.symlink_to(target)
    generated = make_missing(file, NAMES)
    assert file.is_symlink()
    assert dotenv_values(target) == {"HTTP_PORT": "81", **generated}
