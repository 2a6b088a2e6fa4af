"""Waiting, with a time limit, for conditions that other processes, threads or tasks bring about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(
    holds: Callable[[], Result | None],
    seconds: float = 60,
    *,
    pause: float = 0.02,
    describe: Callable[[], object] = lambda: "",
) -> Result:
    """Call ``holds`` every ``pause`` seconds until its result is truthy, and return that result.

    Raises:
        AssertionError: ``seconds`` have passed; the message contains the result of ``describe``.
    """
    deadline = time.monotonic() + seconds
    while not (result := holds()):
        assert time.monotonic() < deadline, f"still waiting after {seconds} s: {describe()}"
        time.sleep(pause)
    return result


async def wait_until_async(holds: Callable[[], object], seconds: float = 20) -> None:
    """Run the event loop until the result of ``holds`` is truthy; raise TimeoutError after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.001)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
