"""A client of supervisord: starting it, configuring and controlling its programs, and stopping it."""

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

# How long after fork() a process may need to replace itself by another program.
_EXEC_SECONDS = 0.1
# The environment variable that marks every process of a stack; its value is the stack's ``var``.
STACK_MARKER = "FORKCAST_VAR"

# The module that starts Nginx, and the name that it had in earlier versions; see deploy/local.py.
NGINX_LAUNCHER, _OLD_NGINX_LAUNCHER = "deploy.backends.local.takeover", "deploy.local.takeover"

_CONFIG = """\
[supervisord]
logfile = log/supervisord.log
pidfile = run/supervisord.pid
minfds = {files}
[unix_http_server]
; The path of a checkout could be longer than the path of a socket may be; the working directory shortens it.
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
    """A program that supervisord runs; it is killed if it takes longer than ``stop_seconds`` to stop."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: int

    def render(self) -> str:
        """Return the program's file for supervisord; `env` sets the variables, since supervisord cannot escape them."""
        variables = (f"{key}={value}" for key, value in sorted(self.environment.items()))
        command = " ".join(_quote(word) for word in ("env", *variables, *self.command))
        return _PROGRAM.format(name=self.name, command=command, stop_seconds=self.stop_seconds)


def _quote(word: str) -> str:
    """Quote a word for supervisord: a ; or # after a space starts a comment, and a % is expanded."""
    return re.sub(r"([\s%])(?=[;#(])", r"\1''", shlex.quote(word)).replace("%", "%%")


def _differs_only_in_launcher(path: Path, text: str) -> bool:
    """Return whether a file differs only in the old name of Nginx's launcher, so that Nginx need not be replaced."""
    return path.is_file() and path.read_text().replace(_OLD_NGINX_LAUNCHER, NGINX_LAUNCHER) == text


class Supervisord:
    """The supervisord of one stack. The working directory of this process must be ``var``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @property
    def pid(self) -> int | None:
        """The process id of the supervisord, or None if it does not run."""
        try:
            pid = int((self._layout.run / "supervisord.pid").read_text())
            return pid if psutil.Process(pid).environ().get(STACK_MARKER) == str(self._layout.var) else None
        except (OSError, ValueError, psutil.Error):
            return None

    def start(self, environ: Mapping[str, str]) -> None:
        """Start supervisord without programs, unless it runs.

        Raises:
            CommandError: supervisord did not start, with the reason.
        """
        if self.pid is not None:
            return
        self.write([])  # Program files of an earlier stack must not start.
        config = self._layout.var / "supervisord.conf"
        config.write_text(_CONFIG.format(files=min(4096, os.sysconf("SC_OPEN_MAX"))))
        binary = Path(sys.executable).parent / "supervisord"
        completed = subprocess.run(
            [str(binary), "-c", str(config)],
            env={**environ, STACK_MARKER: str(self._layout.var)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if completed.returncode or not self._wait_for_socket():
            errors = [line for line in completed.stderr.splitlines() if line.startswith("Error: ")]
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
        """Stop every program, then supervisord, then processes that a killed supervisord left behind."""
        pid = self.pid
        if pid is not None:
            self._rpc("shutdown")
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=120)
        self.stop_leftovers()

    def stop_leftovers(self) -> None:
        """Stop the processes of this stack that a killed supervisord left running.

        The search is repeated, since a process has no environment, and so no marker, while it executes a new program.
        """
        for _ in range(2):
            leftovers = list(self.processes())
            for process in leftovers:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            for process in psutil.wait_procs(leftovers, timeout=10)[1]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(_EXEC_SECONDS)

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the processes of this stack by their marker; Nginx, which overwrites its environment, by its folder."""
        var = str(self._layout.var)
        for process in psutil.process_iter():
            try:
                if process.environ().get(STACK_MARKER) == var or (process.name() == "nginx" and process.cwd() == var):
                    yield process
            except psutil.Error:
                continue

    def write(self, programs: Sequence[Program]) -> None:
        """Write the files of exactly these programs, and delete all others."""
        wanted = {f"{program.name}.conf" for program in programs}
        for path in self._layout.programs.glob("*.conf"):
            if path.name not in wanted:
                path.unlink()
        for program in programs:
            self.write_program(program)

    def write_program(self, program: Program) -> None:
        """Write the file of one program, and leave all other files."""
        path, text = self._layout.programs / f"{program.name}.conf", program.render()
        if not _differs_only_in_launcher(path, text):
            path.write_text(text)

    def has_variable(self, name: str, variable: str, value: str) -> bool:
        """Return whether a program's file sets a variable to this value, which must not need quotes."""
        path = self._layout.programs / f"{name}.conf"
        return path.is_file() and f" {variable}={value} " in path.read_text()

    def config_changes(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of the programs whose files were added, changed and removed, compared with supervisord."""
        added, changed, removed = self._rpc("reloadConfig")[0]
        return sorted(added), sorted(changed), sorted(removed)

    def add(self, *names: str) -> None:
        """Start programs that supervisord does not know yet."""
        for name in names:
            self._rpc("addProcessGroup", name)

    def remove(self, *names: str) -> None:
        """Stop programs at the same time, and remove them from supervisord."""
        for name in names:
            self._call_unless_done("stopProcessGroup", name, False)
        for name in names:
            self._call_unless_done("stopProcessGroup", name, True)
            self._wait_until_stopped(name)
            self._call_unless_done("removeProcessGroup", name)

    def replace(self, name: str) -> None:
        """Stop a program and start it with its changed file."""
        self.remove(name)
        self.add(name)

    def restart(self, name: str) -> None:
        """Stop a program and start it again."""
        self._call_unless_done("stopProcess", name, True)
        self._wait_until_stopped(name)
        self._rpc("startProcess", name, False)

    def revive(self, name: str) -> None:
        """Start a program that was stopped, is stopping, or failed too often."""
        self._wait_until_stopped(name)
        self._call_unless_done("startProcess", name, False)

    def info(self) -> dict[str, dict[str, Any]]:
        """Return the state of each program by name, with statename, pid, start, now and more."""
        return {process["name"]: process for process in self._rpc("getAllProcessInfo")}

    def _wait_until_stopped(self, name: str) -> None:
        while self.info().get(name, {}).get("statename") == "STOPPING":
            time.sleep(0.05)

    def _call_unless_done(self, method: str, *arguments: object) -> None:
        """Call a method of supervisord; ignore that the program is already in the wanted state, or gone."""
        try:
            self._call(method, *arguments)
        except Fault as fault:
            if fault.faultCode not in (
                Faults.BAD_NAME,
                Faults.NOT_RUNNING,
                Faults.ALREADY_STARTED,
                Faults.STILL_RUNNING,
            ):
                raise _refusal(fault, method, *arguments) from None

    def _rpc(self, method: str, *arguments: object) -> Any:
        """Call a method of supervisord; a refusal raises a CommandError."""
        try:
            return self._call(method, *arguments)
        except Fault as fault:
            raise _refusal(fault, method, *arguments) from None

    def _call(self, method: str, *arguments: object) -> Any:
        with self._connection() as supervisor:
            return getattr(supervisor, method)(*arguments)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        transport = SupervisorTransport(None, None, "unix://run/supervisord.sock")
        with ServerProxy("http://127.0.0.1", transport) as proxy:
            yield proxy.supervisor


def _refusal(fault: Fault, method: str, *arguments: object) -> CommandError:
    """Return the error for a call that supervisord refused, such as to start a program that it cannot start."""
    call = " ".join(map(str, [method, *arguments]))
    return CommandError(f"supervisord refused {call}: {fault.faultString}")
