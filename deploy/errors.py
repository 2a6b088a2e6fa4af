"""What a command of the deploy side says when it cannot do what was asked."""

from __future__ import annotations


class CommandError(Exception):
    """The message is the one line that the user reads; the exit status is 1."""
