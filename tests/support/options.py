"""Options of commands, made from environment variables."""

from __future__ import annotations

from deploy.options import Options


def options(**variables: str) -> Options:
    """Return the options of a command whose environment has only these variables."""
    return Options.read(variables)
