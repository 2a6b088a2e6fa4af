"""One replica and an Nginx in front of it, with the project's own configuration, in a folder of their own."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.backends.local import nginx
from deploy.backends.local.slots import replica_socket
from deploy.bench.accesslog import AccessLog
from deploy.bench.processes import MeasuredProgram, Processes, running
from deploy.errors import CommandError
from deploy.rollout.replica_client import request_json
from deploy.stack import ports
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.settings import Settings

# Seconds that a replica may take from its start to its first answer.
_READY_TIMEOUT = 180
# Seconds that Nginx's old workers may take to end, and the replica's to tell each other that connections are gone.
_SETTLE_TIMEOUT = 10
_SETTLED = 0.3


@dataclass(frozen=True, slots=True)
class Rig:
    """Both of them, running. ``engine`` is the one that the replica chose."""

    address: str
    engine: str
    workers: int
    programs: tuple[MeasuredProgram, MeasuredProgram]
    log: AccessLog

    @property
    def server(self) -> Processes:
        """Gunicorn's."""
        return Processes(self.programs[0].process.pid)

    @property
    def nginx(self) -> Processes:
        """Nginx's."""
        return Processes(self.programs[1].process.pid)

    def renew_connections(self) -> None:
        """Let Nginx's workers, and with them their connections to the replica, be replaced.

        What they keep of a run they use in the next, the last used first: after 64 connections, 16 may all lead to
        one worker.

        Raises:
            CommandError: Nginx or the replica has ended.
        """
        self.check()
        master = psutil.Process(self.programs[1].process.pid)
        old = master.children()
        master.send_signal(signal.SIGHUP)
        psutil.wait_procs(old, timeout=_SETTLE_TIMEOUT)
        time.sleep(_SETTLED)

    def check(self) -> None:
        """Both still run.

        Raises:
            CommandError: one does not.
        """
        for program in self.programs:
            program.check()


@contextmanager
def rig(binary: str, environment: Mapping[str, str], folder: Path, engine: str, workers: int) -> Iterator[Rig]:
    """Start both in ``folder``, and stop them at the end; ``environment`` is what the replica gets besides.

    Raises:
        CommandError: one did not start.
    """
    layout = Layout(folder)
    layout.make()
    port = ports.find_free()
    _configure(binary, layout, port, Settings.from_env(environment))
    address = f"http://127.0.0.1:{port}"
    # Relative to the folder that they run in, so that the socket's path is short wherever that is.
    of_replica = {"ENGINE": engine, "WEB_CONCURRENCY": str(workers), "SOCKET": replica_socket(1), "REPLICA": "bench"}
    gunicorn = [str(Path(sys.executable).parent / "gunicorn"), "-c", str(ROOT / "gunicorn.conf.py")]
    with (
        running("the replica", gunicorn, folder, {**environment, **of_replica}) as replica,
        running("nginx", nginx.command(binary, layout), folder, os.environ) as balancer,
    ):
        chosen = _wait_ready(address, replica, balancer)
        yield Rig(address, chosen, workers, (replica, balancer), AccessLog(layout.logs / "access.log"))


def _configure(binary: str, layout: Layout, port: int, settings: Settings) -> None:
    stack = Stack(http_port=port, environment={"MAX_BODY_BYTES": str(settings.max_body_bytes)})
    nginx.write_config(layout, stack)
    upstream = layout.var / "nginx/upstream.conf"
    upstream.write_text(only_first_slot(upstream.read_text()))
    nginx.check_config(binary, layout)


def only_first_slot(upstream: str) -> str:
    """The local backend's upstream without its empty slots: trying them is no part of a prediction's cost."""
    return re.sub(r"(?m)^ *server unix:run/(?!1\.sock\b).*\n", "", upstream)


def _wait_ready(address: str, *programs: MeasuredProgram) -> str:
    """Until the replica answers through Nginx; the engine that it has chosen."""
    deadline = time.monotonic() + _READY_TIMEOUT
    while request_json(address, "GET", "/ready")[0] != 200:
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise CommandError(f"the replica was not ready in {_READY_TIMEOUT} s")
        time.sleep(0.1)
    return str(request_json(address, "GET", "/health")[1]["model"]["engine"])
