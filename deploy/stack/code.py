"""A digest of the code that replicas run, which shows whether a replica was started from other code."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from deploy.stack.paths import ROOT


def code_digest(root: Path = ROOT) -> str:
    """Return 16 hex digits of a SHA-256 of the paths and contents of ``gunicorn.conf.py`` and ``server/**/*.py``."""
    digest = sha256()
    for path in (root / "gunicorn.conf.py", *sorted((root / "server").rglob("*.py"))):
        content = sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def code_mismatch(replica: str) -> str:
    """Return the error for a replica that was started from other code, and so cannot reload a model safely."""
    return f"{replica} runs other code than this checkout has, which a reload cannot change: run make up, then promote"
