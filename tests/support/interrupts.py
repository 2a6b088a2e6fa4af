"""Handling of Ctrl-C under pytest-xdist: each worker stops what its tests started before it ends."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType

import execnet
import psutil
import pytest
from xdist.workermanage import WorkerController

# Removing a stack in containers with its images takes half a minute.
STOP_SECONDS = 180


def interrupt_once() -> None:
    """Make the first SIGINT interrupt this process, and ignore further ones while fixtures are torn down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: None)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


class WorkerInterrupter:
    """A plugin of the main process that waits for its workers after Ctrl-C; pytest-xdist kills them after 10 s."""

    def __init__(self) -> None:
        self._channels: list[execnet.Channel] = []

    def pytest_testnodeready(self, node: WorkerController) -> None:
        """Remember the channel of a worker that has started."""
        self._channels.append(node.channel)

    def pytest_keyboard_interrupt(self) -> None:
        """Send SIGINT to the workers and wait until their fixtures are torn down."""
        for worker in psutil.Process().children():
            worker.send_signal(signal.SIGINT)
        for channel in self._channels:
            with suppress(channel.RemoteError, channel.TimeoutError):
                channel.waitclose(STOP_SECONDS)


def prepare(config: pytest.Config) -> None:
    """Prepare a worker of pytest-xdist, or the main process with workers, for Ctrl-C."""
    if hasattr(config, "workerinput"):
        interrupt_once()
    elif config.getoption("dist", "no") != "no":
        interrupt_once()
        config.pluginmanager.register(WorkerInterrupter())
