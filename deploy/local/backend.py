"""The verbs on the local backend. Each computes what should run and lets supervisord converge to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from deploy import ports, probe
from deploy.errors import CommandError
from deploy.layout import ROOT, Layout
from deploy.local import nginx, registry
from deploy.local.promotion import LocalRegistrar, LocalReplica
from deploy.local.slots import SLOTS, replica_name, replica_socket
from deploy.local.supervisord import Program, Supervisord
from deploy.local.watch import follow_logs, stats, status
from deploy.model.ensure import ensure_model
from deploy.promotion import Version, promote, settle
from deploy.registry import OWN, public
from deploy.registry import asked as with_registry
from deploy.stack import Stack

# Seconds that a replica may take from its start to its first answer: resolving, loading and warming up.
_READY_TIMEOUT = 180
# How often the access log is looked at (seconds), and how large it may grow (bytes).
_ROTATION = ("60", "100000000")
# Requests until a slot has its full weight (nginx/upstream-local.conf) among as many others as there are slots.
_INTRODUCTIONS = 300
# Where Locust's master listens for its workers: below the ports that systems give to clients.
_INNER_PORTS = range(20000, 32000)


class LocalBackend:
    """One stack under one ``var``. Its process works in that folder: socket paths are relative to it."""

    name = "local"

    def __init__(self, layout: Layout, environ: Mapping[str, str]) -> None:
        self._layout = layout
        self._environ = environ
        self._supervisord = Supervisord(layout)
        layout.make()
        os.chdir(layout.var)

    def up(self, *, full: bool = False) -> Stack:
        """Run what was asked for and answer a prediction through Nginx; again, and it converges.

        Raises:
            CommandError: it cannot; what this call started is stopped again.
        """
        before = self._running()
        stack = (before or Stack()).changed(self._environ)
        stack = with_registry(stack, self._environ, registry.ADDRESS, full=full)
        if before is None:
            self._supervisord.stop_leftovers()
        binary = nginx.find_nginx()
        stack = self._place(stack, before)
        with self._undone_on_failure(before) if stack.full else nullcontext():
            self._start_registry(stack, before, binary)
            ensure_model({**self._environ, **stack.environment, **self._own(stack), "VAR_DIR": str(self._layout.var)})
        with self._undone_on_failure(before):
            self._supervisord.start(public(self._environ))
            self._change(before, stack, binary)
            self._predict(stack)
        return stack

    def scale(self) -> Stack:
        """Another number of replicas; no request fails meanwhile."""
        before = self._require_running()
        if not self._environ.get("N"):
            raise CommandError(f"N is missing: make scale N=3 (a whole number from 1 to {SLOTS})")
        stack = before.changed({"N": self._environ["N"]})
        with self._undone_on_failure(before):
            self._change(before, stack, nginx.find_nginx())
        return stack

    def resources(self) -> Stack:
        """Hold each replica to a whole number of CPUs, by affinity, with as many workers."""
        before = self._require_running()
        if self._environ.get("MEMORY"):
            raise CommandError("MEMORY= needs Docker: the local backend has no memory limits")
        cpus, most = self._environ.get("CPUS", ""), len(os.sched_getaffinity(0))
        if not (cpus.isascii() and cpus.isdigit()) or not 1 <= int(cpus) <= most:
            raise CommandError(
                f"CPUS={cpus!r}: expected a whole number from 1 to {most}; for parts of a CPU use Docker"
            )
        stack = replace(before, cpus=int(cpus))
        with self._undone_on_failure(before):
            self._change(before, stack, nginx.find_nginx())
        return stack

    def become(self, stack: Stack) -> Stack:
        """Run exactly this stack, with the model that is there."""
        before = self._require_running()
        with self._undone_on_failure(before):
            self._change(before, stack, nginx.find_nginx())
        return stack

    def restart(self) -> Stack:
        """Every replica anew, one after another; a lone one gets company first, so that someone always answers."""
        stack = self._require_running()
        binary = nginx.find_nginx()
        if stack.replicas == 1:
            with self._undone_on_failure(stack):
                self._converge(replace(stack, replicas=2), binary)
        for slot in range(1, stack.replicas + 1):
            self._supervisord.restart(replica_name(slot))
            self._wait_ready(replica_name(slot))
        self._converge(stack, binary)
        return stack

    def promote(self, version: str | None, *, force: bool) -> Version:
        """Every replica reloads, one after another, to another version of the model."""
        before = self._running()
        stack = before or Stack().changed(self._environ)
        environ = {**self._environ, **stack.environment, "VAR_DIR": str(self._layout.var)}
        info = self._supervisord.info() if before else {}
        replicas = [LocalReplica(_slot(name), info[name]["pid"], self._supervisord) for name in info if _slot(name)]
        patience = stack.settings(self._layout).graceful_timeout
        promoted = promote(replicas, LocalRegistrar(environ), version, force=force, patience=patience)
        if before is not None:
            settle(before.address, promoted, before.replicas)
        return promoted

    def down(self) -> None:
        """Stop everything that this stack started."""
        self._supervisord.shut_down()
        for path in [self._layout.state, *self._layout.run.iterdir()]:
            path.unlink(missing_ok=True)

    def train(self) -> None:
        """Become the trainer. Does not return."""
        self._become("deploy.model.train")

    def compile(self) -> None:
        """Become the compiler of models. Does not return."""
        self._become("deploy.model.compile")

    def record(self, document: str) -> None:
        """Log measured runs in the stack's registry."""
        environ = dict(self._environ) | (self._running() or Stack()).environment | {"VAR_DIR": str(self._layout.var)}
        ran = subprocess.run(
            [sys.executable, "-m", "deploy.model.record"],
            cwd=ROOT, env=environ, input=document, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            reason = (ran.stderr.strip().splitlines() or [f"status {ran.returncode}"])[-1]
            raise CommandError(f"no run was logged: {reason.removeprefix('error: ')}")

    def _become(self, program: str) -> None:
        asked = {name: value for name, value in self._environ.items() if value}
        environ = (self._running() or Stack()).environment | asked | {"VAR_DIR": str(self._layout.var)}
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-m", program], environ)  # noqa: S606

    def status(self) -> list[str]:
        """A line a program, and where to reach the stack."""
        return status(self._require_running(), self._supervisord)

    def stats(self) -> None:
        """CPU and memory; again and again while there is a terminal."""
        stack = self._require_running()
        while True:
            lines = stats(stack, self._supervisord)
            if not sys.stdout.isatty():
                print("\n".join(lines))
                return
            print("\033[2J\033[H" + "\n".join(lines), flush=True)

    def logs(self) -> None:
        """What a service printed. Does not return."""
        follow_logs(self._layout, self._environ.get("S") or "server")

    def _running(self) -> Stack | None:
        return Stack.load(self._layout) if self._supervisord.pid is not None else None

    def _require_running(self) -> Stack:
        stack = self._running()
        if stack is None:
            raise CommandError("nothing is running here; start it with: make up")
        return stack

    def _place(self, stack: Stack, before: Stack | None) -> Stack:
        """Settle the ports: those that this very stack listens on already are its own."""
        if before is None or stack.http_port != before.http_port:
            stack = replace(stack, http_port=ports.choose_http_port(stack.http_host, stack.http_port))
        if before is None or stack.locust_port != before.locust_port:
            ports.check_free("127.0.0.1", stack.locust_port, "LOCUST_PORT")
        if stack.full and (before is None or not before.full or stack.mlflow_port != before.mlflow_port):
            ports.check_free("127.0.0.1", stack.mlflow_port, "MLFLOW_PORT")
        if stack.locust_port == stack.http_port:
            raise CommandError(f"LOCUST_PORT={stack.locust_port}: Nginx listens there already; expected another port")
        return stack

    def _start_registry(self, stack: Stack, before: Stack | None, binary: str) -> None:
        """The stack's own MLflow, if it has one. What has been served goes on being so without it."""
        if not stack.full:
            return
        self._supervisord.start(public(self._environ))
        others = self._programs(replace(before, full=False), binary) if before else []
        try:
            registry.start(self._supervisord, stack, others, self._layout)
        except CommandError as error:
            if before is None or not before.full:
                raise
            print(f"note: the registry did not come up, so that the last good copy is served: {error}", flush=True)

    def _own(self, stack: Stack) -> dict[str, str]:
        return {OWN: stack.environment["MLFLOW_TRACKING_URI"]} if stack.full else {}

    @contextmanager
    def _undone_on_failure(self, before: Stack | None) -> Iterator[None]:
        """Leave nothing half-started: go back to what ran before, or to nothing."""
        try:
            yield
        except BaseException:
            if before is None:
                self.down()
            else:
                with suppress(CommandError):
                    self._converge(before, nginx.find_nginx())
            raise

    def _change(self, before: Stack | None, stack: Stack, binary: str) -> None:
        """Converge; a lone replica that has to be replaced gets company first, so that someone always answers."""
        if before is not None and before.replicas == stack.replicas == 1 and not stack.runs_as(before):
            self._converge(replace(stack, replicas=2), binary)
        self._converge(stack, binary)

    def _converge(self, stack: Stack, binary: str) -> None:
        """Make supervisord run exactly this: new replicas first, then changed programs one by one, then the rest.

        Raises:
            CommandError: something did not come up.
        """
        self._supervisord.write(self._programs(stack, binary))
        added, changed, removed = self._supervisord.difference()
        self._supervisord.add(*filter(_slot, added))
        self._revive()
        self._wait_ready(*filter(_slot, added))
        for name in changed:
            self._supervisord.replace(name)
            self._wait_ready(*filter(_slot, [name]))
        self._supervisord.add(*(name for name in added if not _slot(name)))
        self._supervisord.remove(*removed)
        stack.save(self._layout)
        self._wait_ready(*(replica_name(slot) for slot in range(1, stack.replicas + 1)))
        self._wait_for_addresses(stack)
        if added:
            self._introduce(stack)

    def _revive(self) -> None:
        for name, process in self._supervisord.info().items():
            if process["statename"] in ("STOPPED", "EXITED", "FATAL"):
                self._supervisord.revive(name)
            elif _slot(name) and process["statename"] == "RUNNING" and not Path(replica_socket(_slot(name))).exists():
                self._supervisord.restart(name)  # somebody deleted its socket: it runs, and nobody can reach it

    def _programs(self, stack: Stack, binary: str) -> Sequence[Program]:
        config = nginx.write_config(self._layout, stack)
        nginx.check_config(binary, self._layout)
        balancer = [sys.executable, "-m", "deploy.local.takeover", *nginx.command(binary, self._layout)]
        balancer = [*_pinned(stack.environment.get("SERVICE_CPUSET")), *balancer]
        # A changed configuration makes a changed program, which supervisord then starts anew.
        digest = {"CONFIG_DIGEST": sha256(config.encode()).hexdigest(), "PYTHONPATH": str(ROOT)}
        return [
            *registry.programs(stack, self._layout),
            *(self._replica(stack, slot) for slot in range(1, stack.replicas + 1)),
            Program("nginx", balancer, digest, stop_seconds=10),
            Program("locust", self._locust(stack), {}, stop_seconds=10),
            Program("log-rotation", ["/bin/sh", str(ROOT / "deploy/local/rotate.sh"), *_ROTATION], {}, stop_seconds=5),
        ]

    def _replica(self, stack: Stack, slot: int) -> Program:
        gunicorn = [_tool("gunicorn"), "-c", str(ROOT / "gunicorn.conf.py")]
        own = _cpu_list(slot, int(stack.cpus)) if stack.cpus else None
        gunicorn = [*_pinned(stack.environment.get("SERVICE_CPUSET") or own), *gunicorn]
        # What is Locust's own is no reason to start a replica anew.
        environment = {name: value for name, value in stack.environment.items() if name != "LOCUST_WORKERS"} | {
            "VAR_DIR": str(self._layout.var),
            "SOCKET": replica_socket(slot),
            "REPLICA": replica_name(slot),
        }
        graceful = stack.settings(self._layout).graceful_timeout
        return Program(replica_name(slot), gunicorn, environment, stop_seconds=graceful + 5)

    def _locust(self, stack: Stack) -> list[str]:
        file = str(ROOT / "locust/locustfile.py")
        port = str(stack.locust_port)
        command = [_tool("locust"), "-f", file, "--host", stack.address, "--web-host", "127.0.0.1", "--web-port", port]
        if stack.locust_workers == 1:
            return command
        # Locust's own port for workers is one for the whole machine.
        inner = str(_INNER_PORTS[stack.locust_port % len(_INNER_PORTS)])
        ports = ["--master-bind-host", "127.0.0.1", "--master-bind-port", inner, "--master-port", inner]
        return [*command, "--processes", str(stack.locust_workers), *ports]

    def _wait_ready(self, *names: str) -> None:
        for name in names:
            self._wait_for_replica(name)

    def _wait_for_replica(self, name: str) -> None:
        socket, first_pid = replica_socket(_slot(name)), 0
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            if probe.ask_socket(socket, "/ready", timeout=2)[0] == 200:
                return
            process = self._supervisord.info().get(name, {})
            first_pid = first_pid or process.get("pid", 0)
            if process.get("statename") in ("BACKOFF", "FATAL", "EXITED") or process.get("pid") != first_pid:
                raise CommandError(f"{name} did not start: {self._reason(name)}")
            time.sleep(0.1)
        raise CommandError(f"{name} was not ready in {_READY_TIMEOUT} s; see make logs")

    def _reason(self, name: str) -> str:
        """Our own last line in a program's log, else its last line."""
        lines = self._layout.log(name).read_text(errors="replace").strip().splitlines()
        ours = [line.removeprefix("forkcast: ") for line in lines[-20:] if line.startswith("forkcast: ")]
        return (ours or lines or ["it printed nothing"])[-1]

    def _introduce(self, stack: Stack) -> None:
        """Let Nginx meet the new replicas: after a failed try, a slot regains its share of requests one by one."""
        seen: set[str] = set()
        deadline = time.monotonic() + 5
        asked = 0
        while time.monotonic() < deadline and (asked < _INTRODUCTIONS or len(seen) < stack.replicas):
            seen.add(probe.marks(stack.address).replica)
            asked += 1

    def _wait_for_addresses(self, stack: Stack) -> None:
        places = {"nginx": f"{stack.address}/null", "locust": f"http://127.0.0.1:{stack.locust_port}/"}
        for name, address in places.items():
            deadline = time.monotonic() + 60
            while not probe.listens(address):
                state = self._supervisord.info().get(name, {}).get("statename")
                if time.monotonic() > deadline or state in ("FATAL", "EXITED", "BACKOFF"):
                    raise CommandError(f"{name} did not start: {self._reason(name)}")
                time.sleep(0.1)

    def _predict(self, stack: Stack) -> None:
        """One prediction through Nginx, as a user's client would make it."""
        if note := probe.predict_example(stack.address):
            print(f"note: {note}")


def _tool(name: str) -> str:
    """A program of the environment that runs this."""
    return str(Path(sys.executable).parent / name)


def _slot(name: str) -> int:
    """The slot of a replica's program; 0 for any other."""
    kind, _, number = name.partition("-")
    return int(number) if kind == "replica" else 0


def _pinned(cpus: str | None) -> list[str]:
    """What a command is begun with, to run on these CPUs alone."""
    return ["taskset", "-c", cpus] if cpus else []


def _cpu_list(slot: int, cpus: int) -> str:
    """The CPUs of a slot: neighbours share as few as there are."""
    usable = sorted(os.sched_getaffinity(0))
    chosen = (usable[((slot - 1) * cpus + i) % len(usable)] for i in range(cpus))
    return ",".join(str(cpu) for cpu in sorted(set(chosen)))
