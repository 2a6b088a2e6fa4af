"""What all tests keep to, and what those of the container backend stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import turns
from tests.support.fake_docker import FakeDocker

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(turns)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test opens with a sentence that says what holds."""
    for item in items:
        if not (getattr(item, "obj", None).__doc__ or "").rstrip().endswith("."):
            raise pytest.UsageError(f"{item.nodeid} does not say what holds")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """The `docker` that this process and those that it starts will find, with no answer yet."""
    fake = FakeDocker(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake.path)
    for name in ("DOCKER_HOST", "COMPOSE_PROJECT_NAME", "BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.fixture
def no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `docker` on PATH, nor anything else."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("BACKEND", raising=False)
