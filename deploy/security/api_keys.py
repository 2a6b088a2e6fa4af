"""API keys as the verbs see them: whether replicas can follow the file, and which key our own clients send."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack.specification import Stack
from server.http.api_keys import Keys, parse
from server.system.files import read_small_file

# Whom the replicas run as in containers (deploy/images/Dockerfile): user and group.
CONTAINER_UID = 10001
_KEY = re.compile(r"[!-~]{16,256}")


def client_key(stack: Stack, options: Options) -> str:
    """What our own clients send: API_KEY, else the first plain key of the file; empty where there is none.

    It is not remembered: a secret belongs into ``.env``, or the file.
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
    plain = (line.strip() for line in lines if not line.strip().startswith(("#", "sha256:")))
    return next(filter(None, plain), "")


def check(stack: Stack, options: Options) -> None:
    """The file is one that replicas take, and our own clients have one of its keys.

    Raises:
        CommandError: naming the variable and what was expected, and no key.
    """
    path = stack.api_keys_file
    if path is None:
        return
    keys = _read(path)
    key = client_key(stack, options)
    if not key:
        raise CommandError("API_KEY is missing: API_KEYS_FILE has digests alone; expected one of its keys, in .env")
    if not _KEY.fullmatch(key) or not keys.accepts(key.encode()):
        raise CommandError(f"API_KEY is none of the keys in API_KEYS_FILE={str(path)!r}")


def reload_problem(stack: Stack) -> str:
    """Why replicas do not follow the file now, as far as can be seen from here; empty where they do."""
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
        raise CommandError(f"API_KEYS_FILE={str(path)!r}: it cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"API_KEYS_FILE={str(path)!r}: {error}") from None


def check_mountable(stack: Stack) -> None:
    """Containers can be given the file's folder, and read it.

    Raises:
        CommandError: they cannot, and what to do.
    """
    path = stack.api_keys_file
    if path is None:
        return
    place = f"API_KEYS_FILE={str(path)!r}"
    if others := sorted(one.name for one in path.parent.iterdir() if one != path):
        raise CommandError(
            f"{place}: containers see its whole folder, which holds {others[0]!r} too; expected a folder of its own"
        )
    if path.is_symlink():
        raise CommandError(f"{place}: containers see its folder alone, and not where this link leads; expected a file")
    if not (_lets(path.parent, 0o5) and _lets(path, 0o4)):
        folder = path.parent
        raise CommandError(
            f"{place}: replicas run as user and group {CONTAINER_UID}, who may not read it: "
            f"chgrp -R {CONTAINER_UID} {folder} && chmod 750 {folder} && chmod 640 {path}"
        )


def _lets(path: Path, bits: int) -> bool:
    """Whether the replicas' user may do that, by the mode."""
    found = path.stat()
    shift = 6 if found.st_uid == CONTAINER_UID else 3 if found.st_gid == CONTAINER_UID else 0
    return (found.st_mode >> shift) & bits == bits
