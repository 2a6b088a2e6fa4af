"""The options of a command that was given these variables and nothing else."""

from __future__ import annotations

from deploy.options import Options


def options(**variables: str) -> Options:
    """Return the options of these variables."""
    return Options.read(variables)
