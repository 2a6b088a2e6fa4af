"""A thin client of supervisord: start it, tell it which programs there are, stop it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from deploy.errors import CommandError
from deploy.stack.paths import Layout

# Seconds after which a process has become another program.
_BECOMING_SECONDS = 0.1
# In the environment of everything that a stack starts: tells its processes from any other's.
MARK = "FORKCAST_VAR"

# The module that starts Nginx, and the name by which older code did; see deploy/local.py.
LAUNCHER, _OLD_LAUNCHER = "deploy.backends.local.takeover", "deploy.local.takeover"

_CONFIG = """\
[supervisord]
logfile = log/supervisord.log
pidfile = run/supervisord.pid
minfds = {files}
[unix_http_server]
; Through the working directory: a deep checkout's own path could be longer than a socket's may be.
file = /proc/self/cwd/run/supervisord.sock
chmod = 0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[include]
files = programs/*.conf
"""

_PROGRAM = """\
[program:{name}]
command = {command}
autorestart = true
; Not up for this long counts as a failed start, after which each further try waits a second longer.
startsecs = 5
startretries = 1000000
stopwaitsecs = {stop_seconds}
killasgroup = true
redirect_stderr = true
stdout_logfile = log/{name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 2
"""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised program. ``stop_seconds`` is how long it may take to stop before it is killed."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: int

    def render(self) -> str:
        """Its file in supervisord's format; `env` sets the variables, as supervisord's list of them has no escapes."""
        variables = (f"{key}={value}" for key, value in sorted(self.environment.items()))
        command = " ".join(_quote(word) for word in ("env", *variables, *self.command))
        return _PROGRAM.format(name=self.name, command=command, stop_seconds=self.stop_seconds)


def _quote(word: str) -> str:
    """A word as supervisord reads it: a ; or # after a space would start a comment, and a % is expanded."""
    return re.sub(r"([\s%])(?=[;#(])", r"\1''", shlex.quote(word)).replace("%", "%%")


def _differs_only_in_launcher(path: Path, text: str) -> bool:
    """Return whether a file names Nginx's launcher by its old module: to replace Nginx for that would cost requests."""
    return path.is_file() and path.read_text().replace(_OLD_LAUNCHER, LAUNCHER) == text


class Supervisord:
    """The supervisord of one stack. The process that uses this class has ``var`` as its working directory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @property
    def pid(self) -> int | None:
        """Its process id, if it runs."""
        try:
            pid = int((self._layout.run / "supervisord.pid").read_text())
            return pid if psutil.Process(pid).environ().get(MARK) == str(self._layout.var) else None
        except (OSError, ValueError, psutil.Error):
            return None

    def start(self, environ: Mapping[str, str]) -> None:
        """Start it with no programs, unless it runs.

        Raises:
            CommandError: it did not come up.
        """
        if self.pid is not None:
            return
        self.write([])  # those of the last time are not to run as they were then
        config = self._layout.var / "supervisord.conf"
        config.write_text(_CONFIG.format(files=min(4096, os.sysconf("SC_OPEN_MAX"))))
        binary = Path(sys.executable).parent / "supervisord"
        started = subprocess.run(
            [str(binary), "-c", str(config)],
            env={**environ, MARK: str(self._layout.var)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if started.returncode or not self._wait_for_socket():
            errors = [line for line in started.stderr.splitlines() if line.startswith("Error: ")]
            reason = errors[0].removeprefix("Error: ") if errors else "see var/log/supervisord.log"
            raise CommandError(f"supervisord did not start: {reason}")

    def _wait_for_socket(self) -> bool:
        for _ in range(100):
            try:
                self._rpc("getState")
            except OSError:
                time.sleep(0.1)
            else:
                return True
        return False

    def shut_down(self) -> None:
        """Stop every program, then supervisord, then whatever was left behind by one that was killed."""
        pid = self.pid
        if pid is not None:
            self._rpc("shutdown")
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=120)
        self.stop_leftovers()

    def stop_leftovers(self) -> None:
        """Stop what a supervisord that is gone left running, by process id, and nothing of anyone else.

        A process that becomes another program at the moment has no environment, hence no mark: it is looked for twice.
        """
        for _ in range(2):
            left = list(self.processes())
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            for process in psutil.wait_procs(left, timeout=10)[1]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(_BECOMING_SECONDS)

    def processes(self) -> Iterator[psutil.Process]:
        """Every process of this stack, by its mark; Nginx, whose title overwrites its environment, by its folder."""
        var = str(self._layout.var)
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == var or (process.name() == "nginx" and process.cwd() == var):
                    yield process
            except psutil.Error:
                continue

    def write(self, programs: Sequence[Program]) -> None:
        """Make the folder of programs say exactly this."""
        wanted = {f"{program.name}.conf" for program in programs}
        for path in self._layout.programs.glob("*.conf"):
            if path.name not in wanted:
                path.unlink()
        for program in programs:
            self.write_one(program)

    def write_one(self, program: Program) -> None:
        """Make the file of one program say this, and leave those of all others."""
        path, text = self._layout.programs / f"{program.name}.conf", program.render()
        if not _differs_only_in_launcher(path, text):
            path.write_text(text)

    def sets(self, name: str, variable: str, value: str) -> bool:
        """Return whether a program's file sets a variable to this value, which has no special characters."""
        path = self._layout.programs / f"{name}.conf"
        return path.is_file() and f" {variable}={value} " in path.read_text()

    def difference(self) -> tuple[list[str], list[str], list[str]]:
        """The names of the programs that were added, changed and removed since supervisord last looked."""
        added, changed, removed = self._rpc("reloadConfig")[0]
        return sorted(added), sorted(changed), sorted(removed)

    def add(self, *names: str) -> None:
        """Start programs whose files are new."""
        for name in names:
            self._rpc("addProcessGroup", name)

    def remove(self, *names: str) -> None:
        """Stop programs, all at once, and forget them."""
        for name in names:
            self._tolerant("stopProcessGroup", name, False)
        for name in names:
            self._tolerant("stopProcessGroup", name, True)
            self._wait_until_stopped(name)
            self._tolerant("removeProcessGroup", name)

    def replace(self, name: str) -> None:
        """Stop a program and start it as its file now says."""
        self.remove(name)
        self.add(name)

    def restart(self, name: str) -> None:
        """Stop a program and start it again."""
        self._tolerant("stopProcess", name, True)
        self._wait_until_stopped(name)
        self._rpc("startProcess", name, False)

    def revive(self, name: str) -> None:
        """Start a program that was stopped, is being stopped, or was given up."""
        self._wait_until_stopped(name)
        self._tolerant("startProcess", name, False)

    def info(self) -> dict[str, dict[str, Any]]:
        """What supervisord knows of each program: statename, pid, start, now, .."""
        return {process["name"]: process for process in self._rpc("getAllProcessInfo")}

    def _wait_until_stopped(self, name: str) -> None:
        while self.info().get(name, {}).get("statename") == "STOPPING":
            time.sleep(0.05)

    def _tolerant(self, method: str, *arguments: object) -> None:
        """Call, where the wished-for state may be there already."""
        try:
            self._call(method, *arguments)
        except Fault as fault:
            if fault.faultCode not in (
                Faults.BAD_NAME,
                Faults.NOT_RUNNING,
                Faults.ALREADY_STARTED,
                Faults.STILL_RUNNING,
            ):
                raise _refused(fault, method, *arguments) from None

    def _rpc(self, method: str, *arguments: object) -> Any:
        """Call; what supervisord refuses is a CommandError."""
        try:
            return self._call(method, *arguments)
        except Fault as fault:
            raise _refused(fault, method, *arguments) from None

    def _call(self, method: str, *arguments: object) -> Any:
        with self._connection() as supervisor:
            return getattr(supervisor, method)(*arguments)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        transport = SupervisorTransport(None, None, "unix://run/supervisord.sock")
        with ServerProxy("http://127.0.0.1", transport) as proxy:
            yield proxy.supervisor


def _refused(fault: Fault, method: str, *arguments: object) -> CommandError:
    """Return the error for a call that supervisord refused, such as one on a program that it cannot start."""
    call = " ".join(map(str, [method, *arguments]))
    return CommandError(f"supervisord refused {call}: {fault.faultString}")
