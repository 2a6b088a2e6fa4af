"""The error of commands in ``deploy``, and the reason found in the log of a program that failed."""

from __future__ import annotations


class CommandError(Exception):
    """A command that cannot do what was asked: its message is one line for the user, the exit status is 1."""


def logged_reason(text: str, prefix: str = "forkcast: ") -> str:
    """Return the last line with the prefix among the last 20 lines of a log, otherwise the last line."""
    lines = text.strip().splitlines()
    own_lines = [line.removeprefix(prefix) for line in lines[-20:] if line.startswith(prefix)]
    return (own_lines or lines or ["it printed nothing"])[-1]
