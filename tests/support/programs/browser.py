"""A real headless browser: Debian's Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--enable-logging=stderr",
)  # fmt: skip


class Browser:
    """A browser that opens HTML files, each with a new profile below a folder."""

    def __init__(self, program: str, profiles: Path) -> None:
        self._program = program
        self._profiles = profiles
        self._opened = 0

    @classmethod
    def find(cls, profiles: Path) -> Browser:
        """Return the browser on PATH; without one, skip the test, or fail if REQUIRE_BROWSER is set."""
        program = shutil.which("chromium")
        if program:
            return cls(program, profiles)
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("REQUIRE_BROWSER is set, but chromium is not on PATH")
        pytest.skip("needs a browser: chromium is not on PATH")

    def document(self, page: Path | str, *flags: str) -> str:
        """Return the HTML of a page, a file or an address, after its scripts have run."""
        return self._run(page, "--dump-dom", *flags)[0]

    def complaints(self, page: Path) -> list[str]:
        """Return the lines of a page's console."""
        return [line for line in self._run(page, "--dump-dom")[1].splitlines() if "CONSOLE" in line]

    def picture(self, page: Path, path: Path, size: tuple[int, int], *flags: str) -> Path:
        """Write a screenshot of a page to ``path``; ``size`` is its width and height in pixels."""
        self._run(page, f"--screenshot={path}", f"--window-size={size[0]},{size[1]}", *flags)
        return path

    def _run(self, page: Path | str, *flags: str) -> tuple[str, str]:
        self._opened += 1
        profile = self._profiles / f"profile-{self._opened}"
        address = page if isinstance(page, str) else page.resolve().as_uri()
        command = [self._program, *_FLAGS, f"--user-data-dir={profile}", *flags, address]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout, ran.stderr
