"""Signals that stop a command, as an exception, so that the command can stop what it started."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A command that got SIGINT, SIGTERM or SIGHUP; ``status`` is its exit status: 130 after Ctrl-C, otherwise 1."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.status = 130 if number == signal.SIGINT else 1


def listen() -> None:
    """Raise :class:`Interrupted` at the first of these signals, and ignore later ones, which would disturb the cleanup.

    SIGHUP stays ignored if it is already, so that a command under `nohup` survives its terminal.
    """
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)


def ignore() -> None:
    """Ignore these signals from now on, so that the short rest of a command is not interrupted."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise(number: int, _frame: FrameType | None) -> None:
    ignore()
    raise Interrupted(number)
