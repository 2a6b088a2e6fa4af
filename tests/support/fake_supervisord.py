"""A supervisord that runs nothing: programs are entries of a dictionary, and its actions a list of events.

The client code above it is real. tests/unit/deploy/backends/local/test_supervisord.py compares this fake with a real
supervisord.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

import psutil
from supervisor.xmlrpc import Faults

from deploy.backends.local.readiness import Probe
from deploy.backends.local.slots import replica_name
from deploy.backends.local.supervisord import Supervisord
from deploy.errors import CommandError
from deploy.rollout.replica_client import Access
from deploy.stack.paths import Layout

# Larger than any process id of Linux, so that a signal to such an id reaches no process.
_FIRST_PID = 2**22 + 1
_RUNNING_STATES = ("RUNNING", "STARTING", "BACKOFF")


@dataclass
class FakeProgram:
    """A program of supervisord: its configuration when it was added, and its state."""

    text: str
    statename: str = "STOPPED"
    pid: int = 0
    start: int = 0

    @property
    def command(self) -> list[str]:
        """The arguments of the program's command, without `env` and the variables."""
        return self._arguments[1 + len(self.environment) :]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that `env` sets for the program."""
        variables: dict[str, str] = {}
        for argument in self._arguments[1:]:
            name, equals, value = argument.partition("=")
            if not (equals and name.isidentifier()):
                break
            variables[name] = value
        return variables

    @property
    def _arguments(self) -> list[str]:
        (line,) = (line for line in self.text.splitlines() if line.startswith("command = "))
        return shlex.split(line.removeprefix("command = ").replace("%%", "%"))


class FakeSupervisord(Supervisord):
    """A supervisord that records in ``events``, in order: "add replica-1", "remove nginx", "stop nginx", "start nginx".

    A program whose environment names a SOCKET creates that file when it starts, and removes it when it stops.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.events: list[str] = []
        # The process ids of the replicas that have answered, by name.
        self.answered: dict[str, int] = {}
        self.programs: dict[str, FakeProgram] = {}
        self.environ: dict[str, str] = {}
        self.cannot_start = ""
        self._is_up = False
        self._failures: dict[str, tuple[str, str]] = {}
        self._files: dict[str, str] = {}
        self._clock, self._pids = count(1000), count(_FIRST_PID)

    def fail(self, name: str, log: str = "", state: str = "BACKOFF", having: str = "") -> None:
        """Make a program end in this state on each start, with ``log`` as its output.

        With ``having``, this applies only while the program's configuration contains that text.
        """
        self._failures[name] = state, having
        self._layout.log(name).write_text(log)

    def heal(self, name: str) -> None:
        """Let a program start again."""
        del self._failures[name]

    def end(self, name: str, state: str = "EXITED") -> None:
        """End a program now, as if it had exited by itself."""
        self._end(self.programs[name], state)

    def names(self) -> list[str]:
        """Return the names of the running programs, sorted."""
        return sorted(name for name, program in self.programs.items() if program.pid)

    @property
    def pid(self) -> int | None:
        """The process id of the supervisord, or None if it was not started."""
        return _FIRST_PID - 1 if self._is_up else None

    def start(self, environ: Mapping[str, str]) -> None:
        """Start without programs, unless it runs already.

        Raises:
            CommandError: ``cannot_start`` is set and is the message.
        """
        if self._is_up:
            return
        if self.cannot_start:
            raise CommandError(self.cannot_start)
        self.write([])
        self.events.append("start supervisord")
        self.environ, self._is_up = dict(environ), True

    def shut_down(self) -> None:
        """Stop every program and then the supervisord."""
        self.events.append("shut down")
        self.kill()

    def kill(self) -> None:
        """End every program and the supervisord without an event."""
        for program in self.programs.values():
            self._end(program, "STOPPED")
        self.programs, self._is_up = {}, False

    def stop_leftovers(self) -> None:
        """Record the call; there are no leftover processes."""
        self.events.append("stop leftovers")

    def processes(self) -> Iterator[psutil.Process]:
        """Return an empty iterator: there are no processes."""
        return iter(())

    def _call(self, method: str, *arguments: object) -> Any:
        """Behave as supervisord's XML-RPC interface, with the same faults."""
        if not self._is_up:
            raise FileNotFoundError("run/supervisord.sock")
        methods: dict[str, Callable[..., Any]] = {
            "reloadConfig": self._reload_config,
            "addProcessGroup": self._add,
            "removeProcessGroup": self._remove,
            "stopProcessGroup": lambda name, _wait: self._end(self._program(name), "STOPPED"),
            "stopProcess": self._stop,
            "startProcess": self._start,
            "getAllProcessInfo": self._infos,
        }
        return methods[method](*arguments)

    def _reload_config(self) -> list[list[list[str]]]:
        self._files = {path.stem: path.read_text() for path in self._layout.programs.glob("*.conf")}
        known = {name: program.text for name, program in self.programs.items()}
        changed = [name for name in known.keys() & self._files.keys() if known[name] != self._files[name]]
        return [[list(self._files.keys() - known.keys()), changed, list(known.keys() - self._files.keys())]]

    def _add(self, name: str) -> None:
        if name not in self._files:
            raise Fault(Faults.BAD_NAME, f"BAD_NAME: {name}")
        if name in self.programs:
            raise Fault(Faults.ALREADY_ADDED, f"ALREADY_ADDED: {name}")
        self.events.append(f"add {name}")
        self.programs[name] = FakeProgram(self._files[name])
        self._run(name)

    def _remove(self, name: str) -> None:
        if self._program(name).statename in _RUNNING_STATES:
            raise Fault(Faults.STILL_RUNNING, f"STILL_RUNNING: {name}")
        self.events.append(f"remove {name}")
        del self.programs[name]

    def _stop(self, name: str, _wait: bool) -> None:
        if self._program(name).statename not in _RUNNING_STATES:
            raise Fault(Faults.NOT_RUNNING, f"NOT_RUNNING: {name}")
        self.events.append(f"stop {name}")
        self._end(self._program(name), "STOPPED")

    def _start(self, name: str, _wait: bool) -> None:
        if self._program(name).statename in _RUNNING_STATES:
            raise Fault(Faults.ALREADY_STARTED, f"ALREADY_STARTED: {name}")
        self.events.append(f"start {name}")
        self._run(name)

    def _infos(self) -> list[dict[str, Any]]:
        now = next(self._clock)
        info = [
            {"name": name, "statename": program.statename, "pid": program.pid, "start": program.start, "now": now}
            for name, program in self.programs.items()
        ]
        for program in self.programs.values():  # a stopping program has stopped by the next call
            program.statename = "STOPPED" if program.statename == "STOPPING" else program.statename
        return info

    def _program(self, name: str) -> FakeProgram:
        if name not in self.programs:
            raise Fault(Faults.BAD_NAME, f"BAD_NAME: {name}")
        return self.programs[name]

    def _run(self, name: str) -> None:
        program = self.programs[name]
        program.start = next(self._clock)
        state, having = self._failures.get(name, ("", ""))
        if state and having in program.text:
            program.statename = state
            return
        program.statename, program.pid = "RUNNING", next(self._pids)
        if socket := program.environment.get("SOCKET"):
            Path(socket).touch()

    def _end(self, program: FakeProgram, state: str) -> None:
        program.statename, program.pid = state, 0
        if socket := program.environment.get("SOCKET"):
            Path(socket).unlink(missing_ok=True)


class FakeProbe(Probe):
    """A probe of the programs of a fake supervisord, which answer as soon as they run.

    The first answer of each replica process is an event of the supervisord.
    """

    def __init__(self, supervisord: FakeSupervisord) -> None:
        self._supervisord = supervisord
        self._turns = count()

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, Any]:
        """Return 200 for a running replica, else 0; record the first answer of a process as an event."""
        assert target == "/ready"
        name = replica_name(int(Path(path).stem))
        if name not in self._supervisord.names():
            return 0, None
        pid = self._supervisord.info()[name]["pid"]
        if self._supervisord.answered.get(name) != pid:
            self._supervisord.events.append(f"ready {name}")
        self._supervisord.answered[name] = pid
        return 200, {}

    def request_json(self, address: str, target: str) -> tuple[int, Any]:
        """Return 200 if MLflow runs, else 0."""
        if "mlflow" not in self._supervisord.names():
            return 0, None
        self._supervisord.events.append("ready mlflow")
        return 200, {}

    def listens(self, address: str) -> bool:
        """Return whether the program with this address runs."""
        name = "nginx" if address.endswith("/null") else "locust"
        return name in self._supervisord.names()

    def replica_at(self, address: str, access: Access) -> str:
        """Return the running replicas in turn, or an empty string if none runs."""
        running = [name for name in self._supervisord.names() if name.startswith("replica-")]
        return running[next(self._turns) % len(running)] if running else ""
