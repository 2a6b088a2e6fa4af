"""TypeScript programs of tests/peers/typescript: type-checked with tsc, and run with Node.js."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.stack.paths import ROOT

SOURCES = ROOT / "tests/peers/typescript"
_CACHE = ROOT / "var/peers/typescript"
_PACKAGES = ("package.json", "package-lock.json")


class TypeScript:
    """A folder of TypeScript programs, with the packages that the lock file pins."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self._folder = folder
        self._packages = packages

    @classmethod
    def prepare(cls, folder: Path) -> TypeScript:
        """Create ``folder``; without Node.js, skip the test, or fail if REQUIRE_NODE is set.

        The packages are installed once for each lock file, into var/.
        """
        if missing := [program for program in ("node", "npm") if not shutil.which(program)]:
            text = f"{' and '.join(missing)} not found on PATH"
            if os.environ.get("REQUIRE_NODE"):
                pytest.fail(f"REQUIRE_NODE is set, but {text}")
            pytest.skip(f"needs Node.js: {text}")
        shutil.copytree(SOURCES, folder)
        packages = _install()
        (folder / "node_modules").symlink_to(packages)
        return cls(folder, packages)

    def run(self, program: str, document: Path, address: str) -> list[Any]:
        """Generate types from an OpenAPI document, type-check and run a program; return the JSON of each line printed.

        ``program`` is the name of a file without its ending. Its argument is the ``address`` of the service.
        """
        self._node("openapi-typescript/bin/cli.js", document, "--output", self._folder / "schema.d.ts")
        settings = {"extends": "./tsconfig.json", "files": [f"{program}.ts"]}
        (self._folder / f"tsconfig.{program}.json").write_text(json.dumps(settings))
        self._node("typescript/bin/tsc", "--project", f"tsconfig.{program}.json")
        printed = _run(["node", f"built/{program}.js", address], self._folder)
        return [json.loads(line) for line in printed.splitlines()]

    def _node(self, script: str, *arguments: str | Path) -> None:
        _run(["node", self._packages / script, *arguments], self._folder)


def _install() -> Path:
    """Return the folder of the installed packages, which `npm ci` installs if it is missing."""
    digest = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in _PACKAGES)).hexdigest()
    folder = _CACHE / digest[:16]
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        unfinished.mkdir(parents=True)
        for name in _PACKAGES:
            shutil.copy(SOURCES / name, unfinished)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], unfinished)
        unfinished.rename(folder)
    return folder / "node_modules"


def _run(command: list[str | Path], folder: Path) -> str:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
