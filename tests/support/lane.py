"""A second pytest beside this one, of the same options, whose tests are reported by this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import FrameType, TracebackType
from typing import Any

import pytest

# Its value is the pipe's descriptor.
_NAME = "PYTEST_LANE"
_ENDED_WELL = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class Beside:
    """Runs while the block lasts; where that ends early, what it started is stopped first."""

    def __init__(self, session: pytest.Session) -> None:
        self._session, config = session, session.config
        # Within ours, as those of the workers of xdist are.
        base: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        self._log = base / "beside.log"
        self._command = [sys.executable, "-m", "pytest", *config.invocation_params.args, "--numprocesses=0"]
        self._command += ["--continue-on-collection-errors", f"--basetemp={base / 'beside'}"]
        self._reports: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def __enter__(self) -> Beside:
        receiver, sender = Pipe(duplex=False)
        with sender, self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._session.config.invocation_params.dir,
                env={**os.environ, _NAME: str(sender.fileno())}, pass_fds=[sender.fileno()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                process_group=0,  # a terminal's Ctrl-C is passed on once
            )  # fmt: skip
        Thread(target=self._receive, args=(receiver,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self._process.send_signal(signal.SIGINT)
        if self._process.wait() not in _ENDED_WELL and not kind:
            self._session.config.get_terminal_writer().line(f"\n{self._log.read_text()}")
            self._session.shouldfail = f"the tests beside these were cut short: status {self._process.returncode}"
            raise self._session.Failed(self._session.shouldfail)

    def so_far(self) -> Iterator[pytest.TestReport]:
        """What it has reported since it was last asked."""
        for _ in range(self._reports.qsize()):
            if report := self._reports.get():
                yield self._read(report)
            else:
                self._reports.put(None)  # for the rest

    def rest(self) -> Iterator[pytest.TestReport]:
        """What else it reports until it ends."""
        while report := self._reports.get():
            yield self._read(report)

    def _receive(self, receiver: Connection) -> None:
        # A pipe that nobody reads is full soon, and would hold it up.
        with receiver, suppress(EOFError, OSError):  # the latter in the midst of a report
            while True:
                self._reports.put(receiver.recv())
        self._reports.put(None)

    def _read(self, report: dict[str, Any]) -> pytest.TestReport:
        config = self._session.config
        read: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=report)
        return read


class Reporter:
    """In the second process: reports to the first one, and fails when that is gone."""

    def __init__(self, config: pytest.Config, descriptor: int) -> None:
        self._config = config
        self._sender = Connection(descriptor, readable=False)
        os.set_inheritable(descriptor, False)
        _at_interrupt(signal.default_int_handler)  # a job in a shell's background would ignore it

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._sender.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        """What is being stopped is stopped: it may be -x, in either lane, that ends both."""

        def afterwards(*_: object) -> None:
            item.session.shouldstop = "interrupted"

        _at_interrupt(afterwards)
        try:
            yield
        finally:
            _at_interrupt(signal.default_int_handler)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        _at_interrupt(lambda *_: None)


def _at_interrupt(act: Callable[[int, FrameType | None], object]) -> None:
    signal.signal(signal.SIGINT, act)


def reporter(config: pytest.Config) -> Reporter | None:
    """Where this is the second process, what reports to the first; nothing that it starts is one too."""
    descriptor = os.environ.pop(_NAME, None)
    return Reporter(config, int(descriptor)) if descriptor else None
