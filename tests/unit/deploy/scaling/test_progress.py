"""Tests of the lab's progress on a terminal and without one."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TextIO

import pytest

from deploy.scaling.progress import Progress, duration
from deploy.scaling.step import FAIL, Step

STEP = Step(
    topology="4x0.25/300M:1", users=500, seconds=20, requests=1000, failures=3, rps=249.6, locust_mean=5, locust_p50=4,
    locust_p95=12.5, locust_p99=20, nginx_requests=1000, nginx_p50=3, nginx_p95=11, nginx_p99=19, cpu_percent=80.5,
)  # fmt: skip
MISSED = replace(STEP, users=1000, verdict=FAIL, reason="P95 1.2e+03 ms", memory_percent=40)


@dataclass
class Terminal:
    """A pseudo-terminal whose output can be read, and which can be closed."""

    screen: int
    stream: TextIO

    def shown(self) -> str:
        """Return the output since the last call."""
        self.stream.flush()
        os.set_blocking(self.screen, False)
        text = b""
        try:
            while part := os.read(self.screen, 65536):
                text += part
        except BlockingIOError:
            pass
        return text.decode()

    def plain(self) -> list[str]:
        """Return the output since the last call as lines without control sequences."""
        text = re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", self.shown())
        return [line for line in re.split(r"[\r\n]+", text) if line]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal with 80 columns."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    screen, line = pty.openpty()
    with os.fdopen(line, "w", encoding="utf-8") as stream:
        yield Terminal(screen, stream)
    os.close(screen)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that advances only when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def report_everything(progress: Progress) -> None:
    """Report every type of progress once."""
    progress.note("a note")
    progress.run("4x0.25/300M:1", 2, 8)
    progress.step(500, 30)
    progress.live(500, 249.6, 12.4, 1, 700)
    progress.done(STEP)
    progress.live(1000, 249.6, 12.4, 1, None)
    progress.done(MISSED)
    progress.ended("4x0.25/300M:1", "missed the SLO twice")


def test_output_without_terminal_is_rate_limited_lines(clock: Callable[[float], None]) -> None:
    """Without a terminal each event is a line, and the live state a line every ten seconds at most."""
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.run("4x0.25/300M:1", 2, 8)
        progress.step(500, 30)
        for second in range(25):
            progress.live(500, 249.6, 12.4, second, 700 - second)
            clock(1)
        progress.done(STEP)
        progress.live(1000, 249.6, 12.4, 0, None)
        progress.done(MISSED)
        progress.note("a note")
        progress.ended("4x0.25/300M:1", "missed the SLO twice")
        progress.run("1x1:1", 3, 0)
        progress.ended("1x1:1", "")
    assert stream.getvalue().splitlines() == [
        "[2/8] 4x0.25/300M:1",
        "500 users, 250 requests/s, P95 12 ms, 10 failures; about 12 min left, step 20 s",
        "500 users, 250 requests/s, P95 12 ms, 20 failures; about 11 min left, step 10 s",
        "500 users, 250 requests/s, P95 12 ms, 3 failures, CPU 80 %: pass",
        "1000 users, 250 requests/s, P95 12 ms, 3 failures, CPU 80 %, memory 40 %: fail (P95 1.2e+03 ms)",
        "a note",
        "4x0.25/300M:1: missed the SLO twice",
        "[3] 1x1:1",
        "1x1:1: done",
    ]


def test_terminal_shows_a_table_above_a_live_line(terminal: Terminal, clock: Callable[[float], None]) -> None:
    """On a terminal the steps are rows of a table above one line that is rewritten each second."""
    with Progress(terminal.stream) as progress:
        progress.run("4x0.25/300M:1", 2, 8)
        assert terminal.plain() == ["[2/8] 4x0.25/300M:1"]
        progress.step(500, 30)
        progress.live(500, 249.6, 12.4, 1, 700)
        assert terminal.plain() == ["500 users, 250 requests/s, P95 12 ms, 1 failure; about 12 min left, step 30 s"]
        clock(1)
        progress.live(500, 249.6, 12.4, 1, None)
        assert terminal.plain() == ["500 users, 250 requests/s, P95 12 ms, 1 failure; step 29 s"]
        progress.done(STEP)
        rows = terminal.plain()
        progress.done(MISSED)
        rows += terminal.plain()
        assert [row for row in rows if "step" not in row] == [
            "  USERS  REQUESTS/S   P95 MS  FAILURES   CPU %  MEMORY %  VERDICT",
            "    500         250       12         3      80         -  pass",
            "   1000         250       12         3      80        40  fail (P95 1.2e+03 ms)",
        ]
        progress.ended("4x0.25/300M:1", "missed the SLO twice")
        assert terminal.plain()[-1] == "4x0.25/300M:1: missed the SLO twice"


def test_terminal_is_restored_after_any_end(terminal: Terminal) -> None:
    """After any end, the cursor is visible and the live line is gone."""

    def interrupted(progress: Progress) -> None:
        with progress:
            progress.live(500, 249.6, 12.4, 1, 700)
            assert "\x1b[?25l" in terminal.shown()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(Progress(terminal.stream))
    left = terminal.shown()
    assert "\x1b[?25h" in left
    assert left.endswith("\x1b[2K")


def test_markup_in_reasons_is_shown_as_text(terminal: Terminal) -> None:
    """Markup in the reason of a step is shown as text."""
    with Progress(terminal.stream) as progress:
        progress.note("see [bold]this[/bold] :smile: 3.14")
    assert terminal.shown() == "see [bold]this[/bold] :smile: 3.14\r\n"


@pytest.mark.parametrize("columns", ["1", "5", "20"])
def test_narrow_terminal_keeps_the_live_line_short(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """On a narrow terminal the live state stays on one line."""
    monkeypatch.setenv("COLUMNS", columns)
    with Progress(terminal.stream) as progress:
        report_everything(progress)
        progress.live(500, 249.6, 12.4, 1, 700)
        terminal.shown()
        progress.live(500, 249.6, 12.4, 1, 700)
        assert "\n" not in terminal.shown()


def test_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor gets plain lines."""
    monkeypatch.setenv("TERM", "dumb")
    with Progress(terminal.stream) as progress:
        report_everything(progress)
    assert "\x1b" not in terminal.shown()


def test_closed_terminal_raises_nothing(terminal: Terminal) -> None:
    """A terminal that is closed during or before a step raises no error."""
    screen, line = pty.openpty()
    stream = os.fdopen(line, "w")
    with Progress(stream) as progress:
        progress.live(500, 249.6, 12.4, 1, 700)
        os.close(screen)
        report_everything(progress)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        stream.close()
    report_everything(Progress(stream))
    terminal.stream.close()
    report_everything(Progress(terminal.stream))


def test_closed_pipe_raises_nothing() -> None:
    """A pipe whose reader has closed raises no error."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    with Progress(stream) as progress:
        report_everything(progress)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_unencodable_characters_are_replaced() -> None:
    """A stream that cannot encode all characters gets the others."""
    buffer = io.BytesIO()
    with Progress(io.TextIOWrapper(buffer, encoding="ascii")) as progress:
        progress.note("500 µs")
        assert buffer.getvalue() == b"500 ?s\n"


def test_progress_defaults_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress goes to stderr by default."""
    with Progress() as progress:
        progress.note("a note")
    assert capsys.readouterr() == ("", "a note\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (700, "12 min"), (5300, "88 min"), (5400, "1 h 30 min")],
)  # fmt: skip
def test_durations_are_rounded_for_readers(seconds: float, text: str) -> None:
    """Durations are rounded for readers."""
    assert duration(seconds) == text
