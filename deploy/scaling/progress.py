"""How far the lab is: the steps so far and a line of what happens now at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Self, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from deploy.scaling.step import FAIL, PASS, Step

# Seconds between two lines of what happens now, where they stay.
_PAUSE = 10.0
_COLUMNS = (("USERS", 7), ("REQUESTS/S", 12), ("P95 MS", 9), ("FAILURES", 10), ("CPU %", 8), ("MEMORY %", 10))
_STYLES = {PASS: "green", FAIL: "red"}


class Progress:
    """Tells of runs, their steps, and the time left. A stream that is closed, or a narrow one, costs only the words."""

    def __init__(self, stream: TextIO | None = None) -> None:
        out = _Stream(stream or sys.stderr)
        self._view: _Screen | _Lines = _Screen(out) if out.is_terminal else _Lines(out)
        self._step_ends = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._view.settle()

    def run(self, name: str, number: int, total: int) -> None:
        """A run begins: the so-manieth of so many, or of nobody knows how many (0)."""
        self._view.settle()
        self._view.begin(f"[{number}/{total}] {name}" if total else f"[{number}] {name}")

    def step(self, users: int, seconds_left_in_step: float) -> None:
        """So many users are held, for so long from now."""
        del users  # each call of live() tells it
        self._step_ends = time.monotonic() + seconds_left_in_step

    def live(self, users: int, rps: float, p95_ms: float, failures: int, seconds_left_total: float | None) -> None:
        """What the users see now."""
        # The heading above it names the run: this line is to fit into 80 columns.
        rest = [] if seconds_left_total is None else [f"about {duration(seconds_left_total)} left"]
        rest += [f"step {duration(max(0.0, self._step_ends - time.monotonic()))}"]
        self._view.now(f"{_figures(users, rps, p95_ms, failures)}; {', '.join(rest)}")

    def done(self, step: Step) -> None:
        """A step is measured and judged."""
        self._view.row(step)

    def note(self, text: str) -> None:
        """Something to know."""
        self._view.line(text)

    def ended(self, name: str, why: str) -> None:
        """A run is over, before the top of its ladder if there is a reason."""
        self._view.settle()
        self._view.line(f"{name}: {why or 'done'}")


class _Lines:
    """Lines that stay, for files and pipes."""

    def __init__(self, out: _Stream) -> None:
        self._out = out
        self._told = time.monotonic()

    def begin(self, run: str) -> None:
        self.line(run)

    def now(self, text: str) -> None:
        if time.monotonic() - self._told >= _PAUSE:
            self.line(text)

    def row(self, step: Step) -> None:
        figures = _figures(step.users, step.rps, step.locust_p95, step.failures)
        shares = [f", {name} {value:.0f} %" for name, value in _shares(step) if value is not None]
        self.line(f"{figures}{''.join(shares)}: {_verdict(step)}")

    def line(self, text: str) -> None:
        self._told = time.monotonic()
        self._out.write(f"{text}\n")
        self._out.flush()

    def settle(self) -> None:
        """Nothing is left to do."""


class _Screen:
    """Rows that stay above one line that changes: whoever else prints to the terminal disturbs no more than that."""

    def __init__(self, out: _Stream) -> None:
        self._console = Console(
            file=cast(IO[str], out), force_terminal=True, highlight=False, markup=False, emoji=False
        )
        self._live: Live | None = None
        self._head = True

    def begin(self, run: str) -> None:
        self.line(run, "bold")
        self._head = True

    def now(self, text: str) -> None:
        """Without a thread of its own, which would cost CPU that is measured."""
        shown = Text(text, no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self._live = Live(
                shown, console=self._console, auto_refresh=False, transient=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
        self._live.update(shown, refresh=True)

    def row(self, step: Step) -> None:
        if self._head:
            self.line("".join(f"{name:>{width}}" for name, width in _COLUMNS) + "  VERDICT", "dim")
            self._head = False
        shares = ("-" if value is None else f"{value:.0f}" for _, value in _shares(step))
        cells = (f"{step.users}", f"{step.rps:.0f}", f"{step.locust_p95:.0f}", f"{step.failures}", *shares)
        padded = (f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
        self.line(f"{''.join(padded)}  {_verdict(step)}", _STYLES.get(step.verdict, "yellow"))

    def line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))

    def settle(self) -> None:
        """Take the line that changes away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Stream:
    """A text stream as Rich uses one, for words that may be lost: those for a reader who has gone are."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def is_terminal(self) -> bool:
        return bool(_tried(self._stream.isatty)) and not Console(force_terminal=True).is_dumb_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        shown = text.encode(self.encoding, "replace").decode(self.encoding)
        _tried(lambda: self._stream.write(shown))
        return len(text)

    def flush(self) -> None:
        _tried(self._stream.flush)


def _tried(call: Callable[[], object]) -> object:
    # A closed file is a ValueError, a closed pipe or terminal an OSError.
    with suppress(OSError, ValueError):
        return call()
    return None


def _figures(users: int, rps: float, p95_ms: float, failures: int) -> str:
    failed = "1 failure" if failures == 1 else f"{failures} failures"
    return f"{users} users, {rps:.0f} requests/s, P95 {p95_ms:.0f} ms, {failed}"


def _shares(step: Step) -> tuple[tuple[str, float | None], ...]:
    return ("CPU", step.cpu_percent), ("memory", step.memory_percent)


def _verdict(step: Step) -> str:
    return f"{step.verdict} ({step.reason})" if step.reason else step.verdict


def duration(seconds: float) -> str:
    """In seconds up to a minute and a half, in minutes up to an hour and a half, then in hours and minutes."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
