"""Fixtures of the tests of the local backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.stack.paths import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The folders of a stack; the working directory is ``var``, as in the local backend."""
    layout = Layout(tmp_path / "var")
    layout.make()
    monkeypatch.chdir(layout.var)
    return layout
