"""The digest of a model's folder, which proves that a copy is the model that was registered."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

# The tag of a model version that holds its digest. The trainer writes it, and the resolver compares it.
DIGEST_TAG = "forkcast.digest"

# MLflow adds this file to a model that it downloads from a registry.
_IGNORED_FILES = frozenset({"registered_model_meta"})


def folder_digest(folder: Path, excluding: Collection[str] = ()) -> str:
    """Return the SHA-256 in hex over each file's relative path and content, in the order of the paths.

    ``excluding`` names files and folders directly in the folder to ignore.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        # Python writes __pycache__ beside a model's own code when it imports it, which does not damage the model.
        parts = name.split("/")
        if name in _IGNORED_FILES or "__pycache__" in parts or parts[0] in excluding:
            continue
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
