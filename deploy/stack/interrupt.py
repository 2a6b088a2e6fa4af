"""Ctrl-C, and the other signals that ask a command to stop, as an exception: everything started is stopped by it."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Somebody asked to stop. The status is the one a shell expects after Ctrl-C, else 1."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.status = 130 if number == signal.SIGINT else 1


def listen() -> None:
    """From now on, the first of these signals raises :class:`Interrupted`; none after it disturbs the cleaning up.

    A command under `nohup` goes on without its terminal.
    """
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)


def ignore() -> None:
    """From now on, what is left to do is done whoever asks to stop: it is short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise(number: int, _frame: FrameType | None) -> None:
    ignore()
    raise Interrupted(number)
