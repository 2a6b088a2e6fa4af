"""The version of the project and of the server."""

import tomllib

from server import __version__
from server.settings import ROOT


def test_server_version_equals_project_version() -> None:
    """The version that the server reports is the one in pyproject.toml."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
