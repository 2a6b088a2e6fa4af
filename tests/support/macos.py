"""The platform as macOS has it: no CPU affinity, no /proc, no /sys."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take from this process what macOS does not have."""
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in [name for name in dir(os) if name.startswith("sched_")]:
        monkeypatch.delattr(os, name)
    real = Path.read_text

    def read_text(path: Path, *arguments: str, **options: str) -> str:
        if path.is_relative_to("/proc") or path.is_relative_to("/sys"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
