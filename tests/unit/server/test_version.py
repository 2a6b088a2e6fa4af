"""The project's version."""

import tomllib

from server import __version__
from server.settings import ROOT


def test_server_version_equals_project_version() -> None:
    """The version that the server tells is the project's."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
