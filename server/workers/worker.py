"""The Gunicorn worker class of a replica: one uvicorn server with settings for use behind Nginx."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any

# uvicorn imports these modules when a server starts. Imported here, in the master, they are shared by the workers.
import uvicorn.lifespan.on
import uvicorn.loops.uvloop  # noqa: F401
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from server.workers.balancing import ConnectionCounts
from server.workers.connection import HttpConnection
from server.workers.drain import DrainingServer

logger = logging.getLogger(__name__)

# Gunicorn kills a worker at GRACEFUL_TIMEOUT. The requests still waiting are answered with 503 this much earlier.
_REFUSAL_MARGIN_SECONDS = 2.0


class Worker(UvicornWorker):  # type: ignore[misc]
    """A Gunicorn worker with one event loop (uvloop, httptools) and no access log, which Nginx writes."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012  (declared this way by uvicorn-worker)
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

    # Created in the master, when it imports this class. All workers share it, also old and new ones during a reload.
    connection_counts = ConnectionCounts()
    # This worker's slot in `connection_counts`; the hook pre_fork in gunicorn.conf.py sets it.
    slot = 1

    @property
    def expected_workers(self) -> int:
        """The number of workers that the replica is configured to have, including this one."""
        workers: int = self.cfg.workers
        return workers

    @property
    def predict_timeout(self) -> float:
        """The longest time a predict call may run (seconds): Gunicorn's timeout for a worker's heartbeat."""
        seconds: float = self.cfg.timeout
        return seconds

    def exit_stuck(self, seconds: float) -> None:
        """Exit because a predict call is stuck: its thread cannot be stopped, and the master forks a new worker."""
        logger.critical("a predict call has been running for %.0f s: this worker exits and is replaced", seconds)
        os._exit(1)

    @property
    def drain_seconds(self) -> float:
        """The time that requests have to finish during a drain, before waiting ones are refused (seconds)."""
        graceful: float = self.cfg.graceful_timeout
        return max(graceful - _REFUSAL_MARGIN_SECONDS, graceful / 2)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainingServer(self)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, self.handle_exit, signal.SIGQUIT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
