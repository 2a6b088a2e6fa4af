"""Checks of the file of API keys before replicas read it, and the key that Forkcast's own clients send."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack.specification import Stack
from server.http.api_keys import Keys, parse
from server.system.files import read_small_file

# The user and group of replicas in containers; set in deploy/images/Dockerfile.
CONTAINER_UID = 10001
_KEY = re.compile(r"[!-~]{16,256}")


def client_key(stack: Stack, options: Options) -> str:
    """Return the key that Forkcast's own clients send: API_KEY, otherwise the first plain key of the file, or "".

    The record of the stack does not contain the key: secrets stay in ``.env`` or in the file.
    """
    path = stack.api_keys_file
    if path is None:
        return ""
    if options.api_key:
        return options.api_key
    try:
        lines = read_small_file(path).decode(errors="replace").split("\n")
    except (OSError, ValueError):
        return ""
    plain_keys = (line.strip() for line in lines if not line.strip().startswith(("#", "sha256:")))
    return next(filter(None, plain_keys), "")


def check(stack: Stack, options: Options) -> None:
    """Check that replicas will accept the file of keys, and that Forkcast's own clients have one of its keys.

    Raises:
        CommandError: they will not, or have none; the message names the variable and contains no key.
    """
    path = stack.api_keys_file
    if path is None:
        return
    keys = _read(path)
    key = client_key(stack, options)
    if not key:
        raise CommandError(
            "API_KEY is missing: API_KEYS_FILE contains only digests, so set API_KEY to one of its keys in .env"
        )
    if not _KEY.fullmatch(key) or not keys.accepts(key.encode()):
        raise CommandError(f"API_KEY is not one of the keys in API_KEYS_FILE={str(path)!r}")


def reload_problem(stack: Stack) -> str:
    """Return why replicas cannot read the file of keys in its present state; "" if no reason is known."""
    try:
        if stack.api_keys_file:
            _read(stack.api_keys_file)
        if stack.backend == "docker":
            check_mountable(stack)
    except CommandError as error:
        return str(error)
    return ""


def _read(path: Path) -> Keys:
    try:
        return parse(read_small_file(path))
    except OSError as error:
        raise CommandError(f"API_KEYS_FILE={str(path)!r}: cannot read the file: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"API_KEYS_FILE={str(path)!r}: {error}") from None


def check_mountable(stack: Stack) -> None:
    """Check that the folder of the file can be mounted into containers, and that replicas can read the file there.

    Raises:
        CommandError: it cannot; the message says what to do.
    """
    path = stack.api_keys_file
    if path is None:
        return
    setting = f"API_KEYS_FILE={str(path)!r}"
    if other_names := sorted(entry.name for entry in path.parent.iterdir() if entry != path):
        raise CommandError(
            f"{setting}: its folder is mounted into containers, so expected no other file there, got {other_names[0]!r}"
        )
    if path.is_symlink():
        raise CommandError(f"{setting}: expected a file, got a link, whose target is not mounted into containers")
    if not (_has_permission(path.parent, 0o5) and _has_permission(path, 0o4)):
        folder = path.parent
        raise CommandError(
            f"{setting}: replicas run as user and group {CONTAINER_UID}, who cannot read the file; run: "
            f"chgrp -R {CONTAINER_UID} {folder} && chmod 750 {folder} && chmod 640 {path}"
        )


def _has_permission(path: Path, bits: int) -> bool:
    """Return whether the mode of a path gives the user of replicas these bits: 4 to read, 1 to enter a folder."""
    status = path.stat()
    shift = 6 if status.st_uid == CONTAINER_UID else 3 if status.st_gid == CONTAINER_UID else 0
    return (status.st_mode >> shift) & bits == bits
