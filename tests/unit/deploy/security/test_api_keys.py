"""Tests of the checks of the file of API keys, and of the key that Forkcast's own clients send."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from deploy.errors import CommandError
from deploy.security import api_keys
from deploy.stack.specification import Stack
from tests.support.options import options
from tests.support.refusals import refusal

KEY = "the-key-of-the-first-client"
DIGEST = f"sha256:{sha256(KEY.encode()).hexdigest()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a file of keys in its own folder, both readable to all users."""
    folder = tmp_path / "keys"
    folder.mkdir()
    folder.chmod(0o755)
    path = folder / "keys"
    path.write_text(f"# first client\n\n{KEY}\nthe-key-of-the-second-client\n")
    path.chmod(0o644)
    return path


def stack_of(file: Path) -> Stack:
    return Stack().changed(options(API_KEYS_FILE=str(file)))


def refused_keys(file: Path, **environ: str) -> str:
    """Return why a file of keys is refused, without any of its keys."""
    return refusal(lambda: api_keys.check(stack_of(file), options(**environ)), secret=KEY)


def test_stack_without_keys_needs_no_check() -> None:
    """Without a file of keys, the checks succeed and clients send no key."""
    api_keys.check(Stack(), options(API_KEY=KEY))
    api_keys.check_mountable(Stack())
    assert api_keys.client_key(Stack(), options(API_KEY=KEY)) == ""


def test_client_key_is_api_key_or_first_plain_key(file: Path) -> None:
    """Clients send API_KEY, otherwise the first plain key of the file; the stack does not store API_KEY."""
    stack = stack_of(file)
    assert api_keys.client_key(stack, options()) == KEY
    assert api_keys.client_key(stack, options(API_KEY="the-key-of-the-second-client")) == "the-key-of-the-second-client"
    api_keys.check(stack, options())
    assert "API_KEY" not in Stack().changed(options(API_KEYS_FILE=str(file), API_KEY=KEY)).environment


def test_digest_file_requires_api_key(file: Path) -> None:
    """A file that contains only digests requires API_KEY."""
    file.write_text(f"{DIGEST}\n")
    assert refused_keys(file).startswith("API_KEY is missing: ")
    api_keys.check(stack_of(file), options(API_KEY=KEY))


def test_api_key_that_is_not_in_the_file_is_refused(file: Path) -> None:
    """An API_KEY that replicas would refuse is an error before a stack starts."""
    error = f"API_KEY is not one of the keys in API_KEYS_FILE={str(file)!r}"
    assert refused_keys(file, API_KEY="not-one-of-these-keys") == error
    assert refused_keys(file, API_KEY="short") == error


def test_invalid_key_file_error_names_line_without_content(file: Path) -> None:
    """The error for an invalid file of keys names the line number and does not repeat the line."""
    file.write_text(f"{KEY}\nshort\n")
    assert "line 2: expected a key" in refused_keys(file)
    file.write_text("# nothing\n")
    assert refused_keys(file) == f"API_KEYS_FILE={str(file)!r}: expected at least one key, got none"
    file.unlink()
    assert refused_keys(file) == f"API_KEYS_FILE={str(file)!r}: cannot read the file: No such file or directory"
    assert api_keys.client_key(stack_of(file), options()) == ""


def test_other_file_in_the_folder_is_refused(file: Path) -> None:
    """Another file in the folder of keys is refused, since containers would see it too."""
    api_keys.check_mountable(stack_of(file))
    (file.parent / "id_rsa").touch()
    with pytest.raises(CommandError, match="expected no other file there, got 'id_rsa'"):
        api_keys.check_mountable(stack_of(file))


def test_symbolic_link_is_refused(file: Path) -> None:
    """A symbolic link is refused, since its target is not mounted into containers."""
    file.rename(file.parents[1] / "link-target")
    file.symlink_to(file.parents[1] / "link-target")
    with pytest.raises(CommandError, match="expected a file, got a link"):
        api_keys.check_mountable(stack_of(file))


@pytest.mark.parametrize(("folder", "mode"), [(0o700, 0o644), (0o754, 0o644), (0o755, 0o640), (0o755, 0o600)])
def test_unreadable_key_file_error_suggests_commands(folder: int, mode: int, file: Path) -> None:
    """If the user of replicas cannot read the file, the error contains the commands that permit it."""
    file.parent.chmod(folder)
    file.chmod(mode)
    with pytest.raises(CommandError, match=r"group 10001, who cannot read the file; run: chgrp -R 10001 "):
        api_keys.check_mountable(stack_of(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")
def test_file_readable_to_the_group_of_replicas_is_accepted(file: Path) -> None:
    """A file with the group and modes that the error suggests is accepted."""
    for path, mode in ((file.parent, 0o750), (file, 0o640)):
        os.chown(path, -1, api_keys.CONTAINER_UID)
        path.chmod(mode)
    api_keys.check_mountable(stack_of(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")
def test_folder_the_group_cannot_enter_is_refused(file: Path) -> None:
    """A folder that the group of replicas can list but not enter is refused."""
    for path, mode in ((file.parent, 0o740), (file, 0o640)):
        os.chown(path, -1, api_keys.CONTAINER_UID)
        path.chmod(mode)
    with pytest.raises(CommandError, match="who cannot read the file"):
        api_keys.check_mountable(stack_of(file))
