"""Secrets of the stack's own services: made once, at random, into the file of settings that no one else may read."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from dotenv import dotenv_values

from server.system.files import write_atomically

_HEADING = "# Made by make up-full; the data in the volumes goes with them."


def make_missing(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Add what the file does not have, and keep all that it has; what was added.

    Raises:
        OSError: the file cannot be read or written.
        UnicodeDecodeError: it is no UTF-8.
    """
    text = path.read_text() if path.exists() else ""
    known = dotenv_values(path) if text else {}
    # Letters and digits alone: nothing to quote, wherever they are filled in.
    made = {name: secrets.token_hex(24) for name in names if not known.get(name)}
    if made:
        lines = [_HEADING, *(f"{name}={value}" for name, value in made.items())]
        content = text + ("\n" if text and not text.endswith("\n") else "") + "\n".join(lines) + "\n"
        write_atomically(path, content, 0o600, durable=True)
    elif text:
        path.chmod(0o600)
    return made
