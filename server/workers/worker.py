"""Gunicorn's worker class: one uvicorn server, with settings that suit a replica behind Nginx."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any

# What uvicorn imports when it starts, imported here in the master, so that the workers share it.
import uvicorn.lifespan.on
import uvicorn.loops.uvloop  # noqa: F401
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from server.workers.balancing import Shares
from server.workers.connection import HttpConnection
from server.workers.drain import DrainingServer

logger = logging.getLogger(__name__)

# Gunicorn kills what still runs at GRACEFUL_TIMEOUT; this much earlier the rest is answered with 503 (seconds).
_MARGIN_SECONDS = 2.0


class Worker(UvicornWorker):  # type: ignore[misc]
    """Gunicorn's side: one event loop, uvloop and httptools, no access log (Nginx writes it)."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012  (so declared by uvicorn-worker)
        "loop": "uvloop",
        "http": HttpConnection,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_graceful_shutdown": 1,
    }

    # Made in the master, when it imports this class: workers inherit it, and those of a reload share it with the old.
    shares = Shares()
    # Which of the shares is this worker's; given before the fork.
    slot = 1

    @property
    def siblings(self) -> int:
        """How many workers the replica is to have, this one included."""
        workers: int = self.cfg.workers
        return workers

    @property
    def longest_call(self) -> float:
        """How long a predict call may run (seconds): as long as Gunicorn waits for a worker's sign of life."""
        seconds: float = self.cfg.timeout
        return seconds

    def give_up(self, seconds: float) -> None:
        """End this process: its one predict thread is stuck, nothing can stop it, and the master forks another."""
        logger.critical("a predict call has been running for %.0f s: this worker is replaced", seconds)
        os._exit(1)

    @property
    def drain_seconds(self) -> float:
        """How long requests may finish before the rest is refused."""
        graceful: float = self.cfg.graceful_timeout
        return max(graceful - _MARGIN_SECONDS, graceful / 2)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainingServer(self)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, self.handle_exit, signal.SIGQUIT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
