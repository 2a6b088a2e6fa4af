"""API keys as the verbs see them: what is refused before anything is changed, and what our own clients send."""

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
    """A file of keys in a folder of its own, which others may read."""
    folder = tmp_path / "keys"
    folder.mkdir()
    folder.chmod(0o755)
    path = folder / "keys"
    path.write_text(f"# of the first\n\n{KEY}\nthe-key-of-the-second-client\n")
    path.chmod(0o644)
    return path


def stack_of(file: Path) -> Stack:
    return Stack().changed(options(API_KEYS_FILE=str(file)))


def refused_keys(file: Path, **environ: str) -> str:
    """Return why a file of keys is refused, without any of its keys."""
    return refusal(lambda: api_keys.check(stack_of(file), options(**environ)), secret=KEY)


def test_keys_are_off() -> None:
    """Without a file there is nothing to check, and no key is sent."""
    api_keys.check(Stack(), options(API_KEY=KEY))
    api_keys.check_mountable(Stack())
    assert api_keys.client_key(Stack(), options(API_KEY=KEY)) == ""


def test_key_of_our_own_clients(file: Path) -> None:
    """API_KEY is sent, else the first plain key of the file; the stack does not remember it."""
    stack = stack_of(file)
    assert api_keys.client_key(stack, options()) == KEY
    assert api_keys.client_key(stack, options(API_KEY="the-key-of-the-second-client")) == "the-key-of-the-second-client"
    api_keys.check(stack, options())
    assert "API_KEY" not in Stack().changed(options(API_KEYS_FILE=str(file), API_KEY=KEY)).environment


def test_digest_file_requires_api_key(file: Path) -> None:
    """A file of digests needs API_KEY, and takes it."""
    file.write_text(f"{DIGEST}\n")
    assert refused_keys(file).startswith("API_KEY is missing: ")
    api_keys.check(stack_of(file), options(API_KEY=KEY))


def test_key_of_somebody_else(file: Path) -> None:
    """An API_KEY that the replicas would refuse is refused before."""
    told = f"API_KEY is none of the keys in API_KEYS_FILE={str(file)!r}"
    assert refused_keys(file, API_KEY="not-one-of-these-keys") == told
    assert refused_keys(file, API_KEY="short") == told


def test_invalid_key_file_error_names_line_without_content(file: Path) -> None:
    """What replicas would not start with is refused, with the number of the line and not what is in it."""
    file.write_text(f"{KEY}\nshort\n")
    assert "line 2: expected a key" in refused_keys(file)
    file.write_text("# nothing\n")
    assert refused_keys(file) == f"API_KEYS_FILE={str(file)!r}: expected at least one key, got none"
    file.unlink()
    assert refused_keys(file) == f"API_KEYS_FILE={str(file)!r}: it cannot be read: No such file or directory"
    assert api_keys.client_key(stack_of(file), options()) == ""


def test_folder_of_its_own(file: Path) -> None:
    """What lies beside the file would be seen in the containers too."""
    api_keys.check_mountable(stack_of(file))
    (file.parent / "id_rsa").touch()
    with pytest.raises(CommandError, match="holds 'id_rsa' too; expected a folder of its own"):
        api_keys.check_mountable(stack_of(file))


def test_link_out_of_the_folder(file: Path) -> None:
    """A link leads nowhere in a container."""
    file.rename(file.parents[1] / "elsewhere")
    file.symlink_to(file.parents[1] / "elsewhere")
    with pytest.raises(CommandError, match="expected a file"):
        api_keys.check_mountable(stack_of(file))


@pytest.mark.parametrize(("folder", "mode"), [(0o700, 0o644), (0o754, 0o644), (0o755, 0o640), (0o755, 0o600)])
def test_unreadable_key_file_error_suggests_commands(folder: int, mode: int, file: Path) -> None:
    """Replicas have a user of their own: where it may not read the file, the commands that let it are told."""
    file.parent.chmod(folder)
    file.chmod(mode)
    with pytest.raises(CommandError, match=r"run as user and group 10001, who may not read it: chgrp -R 10001 "):
        api_keys.check_mountable(stack_of(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another group")
def test_file_of_the_replicas_group(file: Path) -> None:
    """As those commands leave it, it can be read."""
    for path, mode in ((file.parent, 0o750), (file, 0o640)):
        os.chown(path, -1, api_keys.CONTAINER_UID)
        path.chmod(mode)
    api_keys.check_mountable(stack_of(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another group")
def test_folder_the_group_cannot_enter_is_refused(file: Path) -> None:
    """A folder that the replicas' group may list and not enter does not let them read the file in it."""
    for path, mode in ((file.parent, 0o740), (file, 0o640)):
        os.chown(path, -1, api_keys.CONTAINER_UID)
        path.chmod(mode)
    with pytest.raises(CommandError, match="who may not read it"):
        api_keys.check_mountable(stack_of(file))
