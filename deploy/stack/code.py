"""The code of this checkout that replicas run, so that a replica of other code is known."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from deploy.stack.paths import ROOT


def code_digest(root: Path = ROOT) -> str:
    """Return 16 hex digits of a SHA-256 over ``gunicorn.conf.py`` and ``server/**/*.py``, their paths and contents."""
    total = sha256()
    for path in (root / "gunicorn.conf.py", *sorted((root / "server").rglob("*.py"))):
        content = sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:16]


def code_mismatch(replica: str) -> str:
    """Return why a replica of other code may not reload."""
    return f"{replica} runs other code than this checkout has, and cannot reload it: make up replaces it, then promote"
