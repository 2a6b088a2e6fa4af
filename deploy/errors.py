"""What a command of the deploy side says when it cannot do what was asked."""

from __future__ import annotations


class CommandError(Exception):
    """The message is the one line that the user reads; the exit status is 1."""


def logged_reason(text: str, prefix: str = "forkcast: ") -> str:
    """Return the last line with Forkcast's own prefix in the end of a log, else the log's last line."""
    lines = text.strip().splitlines()
    ours = [line.removeprefix(prefix) for line in lines[-20:] if line.startswith(prefix)]
    return (ours or lines or ["it printed nothing"])[-1]
