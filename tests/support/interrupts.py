"""Ctrl-C under pytest-xdist: each worker stops what its tests started, and only then is ended."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType

import execnet
import psutil
import pytest
from xdist.workermanage import WorkerController

# A stack in containers takes half a minute to be removed with its images.
STOP_SECONDS = 180


def interrupt_once() -> None:
    """Let the first SIGINT interrupt this process, and none of those that follow while it stops what it started."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: None)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


class Workers:
    """A plugin of the process that has workers: pytest-xdist by itself kills them 10 s after Ctrl-C."""

    def __init__(self) -> None:
        self._channels: list[execnet.Channel] = []

    def pytest_testnodeready(self, node: WorkerController) -> None:
        """Remember a worker that has started."""
        self._channels.append(node.channel)

    def pytest_keyboard_interrupt(self) -> None:
        """Interrupt the workers, wherever the signal came from, and wait until their fixtures are torn down."""
        for worker in psutil.Process().children():
            worker.send_signal(signal.SIGINT)
        for channel in self._channels:
            with suppress(channel.RemoteError, channel.TimeoutError):
                channel.waitclose(STOP_SECONDS)


def prepare(config: pytest.Config) -> None:
    """Prepare for Ctrl-C a worker of pytest-xdist, or the process that has workers."""
    if hasattr(config, "workerinput"):
        interrupt_once()
    elif config.getoption("dist", "no") != "no":
        interrupt_once()
        config.pluginmanager.register(Workers())
