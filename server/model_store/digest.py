"""The digest of a model's folder: what proves that a copy is the model that was registered."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

# A model version's tag that holds its digest; the trainer writes it, the resolver compares it.
DIGEST_TAG = "forkcast.digest"

# MLflow adds this file to what it downloads from a registry; it is not part of the model.
_NOT_MODEL = frozenset({"registered_model_meta"})


def folder_digest(folder: Path, without: Collection[str] = ()) -> str:
    """SHA-256, in hex, over each file's relative path and content, in the order of the paths.

    ``without`` names entries of the folder itself that do not count.

    Raises:
        OSError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        # Python adds bytecode to a model's own code when it is imported, which is no damage.
        parts = name.split("/")
        if name in _NOT_MODEL or "__pycache__" in parts or parts[0] in without:
            continue
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()
