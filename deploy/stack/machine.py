"""The machine and the checkout: conditions of a measurement, and the source address in the labels of images."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.paths import ROOT
from server.system.cgroup import available_cpus
from server.system.platform import processor_name


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine and its checkout. ``commit`` ends in ``-dirty`` if files were changed; it is None outside of Git."""

    cpu: str
    cores: int
    python: str
    commit: str | None

    @classmethod
    def current(cls) -> Machine:
        """Return the machine that this process runs on."""
        return cls(processor_name(), available_cpus(), platform.python_version(), _commit(ROOT))

    @property
    def description(self) -> str:
        """The machine in one line, for reports."""
        commit = f"; commit {self.commit}" if self.commit else ""
        return f"{self.cpu}, {self.cores} core{'s' if self.cores > 1 else ''}; Python {self.python}{commit}"


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return git.stdout.strip() or None


def source_address() -> str:
    """Return the HTTPS address that this checkout was cloned from, without credentials, or an empty text."""
    if shutil.which("git") is None:
        return ""
    ran = subprocess.run(
        ["git", "remote", "get-url", "origin"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.fullmatch(r"https://(?:[^/@]*@)?([^/@]+/.+?)(?:\.git)?\s*", ran.stdout)
    return f"https://{match[1]}" if match else ""
