"""A replica and an Nginx in front of it, with the configuration of the local backend, in a temporary folder."""

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

# The time for a replica from its start to its first answer.
_READY_SECONDS = 180
# The time for Nginx's old workers to end, and then for the replica's workers to count their closed connections.
_WORKERS_END_SECONDS = 10
_SETTLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Rig:
    """A running replica with its Nginx; ``engine`` is the one that the replica chose."""

    address: str
    engine: str
    workers: int
    programs: tuple[MeasuredProgram, MeasuredProgram]
    log: AccessLog

    @property
    def server(self) -> Processes:
        """The processes of the replica."""
        return Processes(self.programs[0].process.pid)

    @property
    def nginx(self) -> Processes:
        """The processes of Nginx."""
        return Processes(self.programs[1].process.pid)

    def renew_connections(self) -> None:
        """Replace the workers of Nginx, and so their connections to the replica.

        Nginx reuses idle connections, the latest first. After a run with 64 connections, the 16 of the next run could
        all lead to the same worker of the replica.

        Raises:
            CommandError: Nginx or the replica has ended.
        """
        self.check()
        master = psutil.Process(self.programs[1].process.pid)
        old_workers = master.children()
        master.send_signal(signal.SIGHUP)
        psutil.wait_procs(old_workers, timeout=_WORKERS_END_SECONDS)
        time.sleep(_SETTLE_SECONDS)

    def check(self) -> None:
        """Check that both programs still run.

        Raises:
            CommandError: one of them has ended.
        """
        for program in self.programs:
            program.check()


@contextmanager
def running_rig(binary: str, environment: Mapping[str, str], folder: Path, engine: str, workers: int) -> Iterator[Rig]:
    """Run a replica and Nginx in ``folder`` for the body of the ``with`` statement.

    ``environment`` has the replica's variables except those that this function sets.

    Raises:
        CommandError: a program did not start.
    """
    layout = Layout(folder)
    layout.make()
    port = ports.find_free()
    _configure(binary, layout, port, Settings.from_env(environment))
    address = f"http://127.0.0.1:{port}"
    # The socket's path is relative to the folder of both programs, so that it is short enough.
    own_variables = {"ENGINE": engine, "WEB_CONCURRENCY": str(workers), "SOCKET": replica_socket(1), "REPLICA": "bench"}
    gunicorn = [str(Path(sys.executable).parent / "gunicorn"), "-c", str(ROOT / "gunicorn.conf.py")]
    with (
        running("the replica", gunicorn, folder, {**environment, **own_variables}) as replica,
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
    """Remove the unused slots from the local backend's upstream, since trying them would distort the measurement."""
    return re.sub(r"(?m)^ *server unix:run/(?!1\.sock\b).*\n", "", upstream)


def _wait_ready(address: str, *programs: MeasuredProgram) -> str:
    """Wait until the replica answers through Nginx; return the engine that it chose."""
    deadline = time.monotonic() + _READY_SECONDS
    while request_json(address, "GET", "/ready")[0] != 200:
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise CommandError(f"the replica was not ready in {_READY_SECONDS} s")
        time.sleep(0.1)
    return str(request_json(address, "GET", "/health")[1]["model"]["engine"])
