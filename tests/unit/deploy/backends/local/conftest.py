"""Fixtures of the tests of the local backend's parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.stack.paths import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Return the folders of a stack, in which this process works as the local backend does."""
    layout = Layout(tmp_path / "var")
    layout.make()
    monkeypatch.chdir(layout.var)
    return layout
