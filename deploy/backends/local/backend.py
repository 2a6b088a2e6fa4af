"""The verbs on the local backend. Each computes what should run and lets supervisord converge to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from deploy.backends.local import nginx, registry
from deploy.backends.local.programs import CODE_DIGEST, programs
from deploy.backends.local.readiness import Readiness
from deploy.backends.local.rollout import LocalRegistrar, LocalReplica
from deploy.backends.local.slots import SLOTS, replica_name, replica_socket, slot_of
from deploy.backends.local.supervisord import Supervisord
from deploy.backends.local.watch import follow_logs, stats, status
from deploy.errors import CommandError
from deploy.models.ensure import ensure_model
from deploy.rollout import replica_client
from deploy.rollout.promotion import Version, promote, settle
from deploy.security import api_keys, tls
from deploy.stack import ports
from deploy.stack.code import code_digest, outdated
from deploy.stack.paths import ROOT, Layout
from deploy.stack.registry_services import OWN, public, with_registry
from deploy.stack.specification import Stack
from server.errors import last_line
from server.system.platform import usable_cpus


class LocalBackend:
    """One stack under one ``var``. Its process works in that folder: socket paths are relative to it."""

    name = "local"

    def __init__(self, layout: Layout, environ: Mapping[str, str]) -> None:
        self._layout = layout
        self._environ = environ
        self._supervisord = Supervisord(layout)
        self._readiness = Readiness(layout, self._supervisord)
        layout.make()
        os.chdir(layout.var)

    def up(self, *, full: bool = False) -> Stack:
        """Run what was asked for and answer a prediction through Nginx; again, and it converges.

        Raises:
            CommandError: it cannot; what this call started is stopped again.
        """
        before = self._running()
        stack = (before or Stack()).changed(self._environ)
        stack = with_registry(self._limited(stack), self._environ, registry.ADDRESS, full=full)
        if before is None:
            self._supervisord.stop_leftovers()
        binary = nginx.find_nginx()
        tls.check(stack)
        api_keys.check(stack, self._environ)
        stack = self._place(stack, before)
        with self._undone_on_failure(before) if stack.full else nullcontext():
            self._start_registry(stack, before, binary)
            ensure_model({**self._environ, **stack.environment, **self._own(stack), "VAR_DIR": str(self._layout.var)})
        written = (self._layout.tls_key, self._layout.tls_cert, self._layout.client_key)
        with self._undone_on_failure(before), tls.restored_on_failure(*written):
            tls.install(self._layout, stack, mode=0o600)
            self._write_key(stack)
            self._supervisord.start(_inherited(self._environ))
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
        if not (self._environ.get("CPUS") or self._environ.get("MEMORY")):
            raise CommandError("CPUS is missing: make resources CPUS=1")
        stack = self._limited(before)
        with self._undone_on_failure(before):
            self._change(before, stack, nginx.find_nginx())
        return stack

    def _limited(self, stack: Stack) -> Stack:
        """Return the stack with the CPUs that the command asks for.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        if self._environ.get("MEMORY"):
            raise CommandError("MEMORY= needs Docker: the local backend has no memory limits")
        cpus, most = self._environ.get("CPUS"), len(usable_cpus())
        if not cpus:
            return stack
        if not (cpus.isascii() and cpus.isdigit()) or not 1 <= int(cpus) <= most:
            raise CommandError(
                f"CPUS={cpus!r}: expected a whole number from 1 to {most}; for parts of a CPU use Docker"
            )
        return replace(stack, cpus=int(cpus))

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
        names = [replica_name(slot) for slot in range(1, stack.replicas + 1)]
        for name in filter(self._is_current, names):  # those of other code are replaced below
            self._supervisord.restart(name)
            self._readiness.wait_ready(name)
        self._converge(stack, binary)
        return stack

    def promote(self, version: str | None, *, force: bool) -> Version:
        """Every replica reloads, one after another, to another version of the model."""
        before = self._running()
        stack = before or Stack().changed(self._environ)
        environ = {**self._environ, **stack.environment, "VAR_DIR": str(self._layout.var)}
        info = self._supervisord.info() if before else {}
        replicas = [LocalReplica(slot_of(name), info[name]["pid"], self._supervisord) for name in info if slot_of(name)]
        if name := next((replica.name for replica in replicas if not self._is_current(replica.name)), None):
            raise CommandError(outdated(name))
        patience = stack.settings(self._layout).graceful_timeout
        promoted = promote(replicas, LocalRegistrar(environ), version, force=force, patience=patience)
        if before is not None:
            settle(before.address, promoted, before.replicas, replica_client.Access.of(before, self._layout))
        return promoted

    def down(self) -> None:
        """Stop everything that this stack started."""
        self._supervisord.shut_down()
        self._layout.forget()
        for path in self._layout.run.iterdir():
            path.unlink(missing_ok=True)

    def train(self) -> None:
        """Become the trainer. Does not return."""
        self._become("deploy.models.training.train")

    def compile(self) -> None:
        """Become the compiler of models. Does not return."""
        self._become("deploy.models.compile.compile_model")

    def record(self, document: str) -> None:
        """Log measured runs in the stack's registry."""
        environ = dict(self._environ) | (self._running() or Stack()).environment | {"VAR_DIR": str(self._layout.var)}
        ran = subprocess.run(
            [sys.executable, "-m", "deploy.models.registry.record"],
            cwd=ROOT, env=environ, input=document, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            reason = last_line(ran.stderr, f"status {ran.returncode}")
            raise CommandError(f"no run was logged: {reason.removeprefix('error: ')}")

    def _become(self, program: str) -> None:
        asked = {name: value for name, value in self._environ.items() if value}
        environ = (self._running() or Stack()).environment | asked | {"VAR_DIR": str(self._layout.var)}
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-m", program], environ)  # noqa: S606

    def monitoring(self) -> Mapping[str, str]:
        """Not here: say how to read by hand what it would read."""
        if self._environ.get("BACKEND") != "local":
            self._require_running()
        raise CommandError(
            "monitoring needs Docker (BACKEND=docker); to read the metrics of a local replica: "
            f"curl --unix-socket {self._layout.var / replica_socket(1)} http://localhost/metrics"
        )

    def status(self) -> list[str]:
        """A line a program, and where to reach the stack."""
        return status(self._require_running(), self._supervisord, self._layout)

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
        had = before.https_port if before and before.has_tls else None
        if stack.has_tls and (had is None or stack.https_port != had):
            stack = replace(stack, https_port=ports.choose_https_port(stack.http_host, stack.https_port))
        if before is None or stack.locust_port != before.locust_port:
            ports.check_free("127.0.0.1", stack.locust_port, "LOCUST_PORT")
        if stack.full and (before is None or not before.full or stack.mlflow_port != before.mlflow_port):
            ports.check_free("127.0.0.1", stack.mlflow_port, "MLFLOW_PORT")
        stack.check_ports()
        return stack

    def _write_key(self, stack: Stack) -> None:
        """For Locust's page, which reads it before each test."""
        path = self._layout.client_key
        path.unlink(missing_ok=True)
        if key := api_keys.client_key(stack, self._environ):
            path.touch(mode=0o600)
            path.write_text(key)

    def _start_registry(self, stack: Stack, before: Stack | None, binary: str) -> None:
        """The stack's own MLflow, if it has one. What has been served goes on being so without it."""
        if not stack.full:
            return
        self._supervisord.start(_inherited(self._environ))
        others = programs(replace(before, full=False), self._layout, binary) if before else []
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
            with suppress(CommandError, OSError):  # the reason is the first error
                if before is None:
                    self.down()
                else:
                    self._converge(before, nginx.find_nginx())
            raise

    def _change(self, before: Stack | None, stack: Stack, binary: str) -> None:
        """Converge; a lone replica that has to be replaced gets company first, so that someone always answers."""
        lone = before is not None and before.replicas == stack.replicas == 1
        if before is not None and lone and not (stack.runs_as(before) and self._is_current(replica_name(1))):
            self._converge(replace(stack, replicas=2), binary)
        self._converge(stack, binary)

    def _converge(self, stack: Stack, binary: str) -> None:
        """Make supervisord run exactly this: new replicas first, then changed programs one by one, then the rest.

        Raises:
            CommandError: something did not come up.
        """
        self._supervisord.write(programs(stack, self._layout, binary))
        added, changed, removed = self._supervisord.difference()
        self._supervisord.add(*filter(slot_of, added))
        self._revive()
        self._readiness.wait_ready(*filter(slot_of, added))
        for name in changed:
            self._supervisord.replace(name)
            self._readiness.wait_ready(*filter(slot_of, [name]))
        self._supervisord.add(*(name for name in added if not slot_of(name)))
        self._supervisord.remove(*removed)
        stack.save(self._layout)
        self._readiness.wait_ready(*(replica_name(slot) for slot in range(1, stack.replicas + 1)))
        self._readiness.wait_for_addresses(stack)
        if added:
            self._readiness.introduce(stack)

    def _is_current(self, name: str) -> bool:
        """Return whether a replica runs the code of this checkout."""
        return self._supervisord.sets(name, CODE_DIGEST, code_digest())

    def _revive(self) -> None:
        for name, process in self._supervisord.info().items():
            if process["statename"] in ("STOPPED", "EXITED", "FATAL"):
                self._supervisord.revive(name)
            elif process["statename"] == "RUNNING" and _cannot_be_reached(name):
                self._supervisord.restart(name)

    def _predict(self, stack: Stack) -> None:
        """One prediction through Nginx, as a user's client would make it."""
        access = replica_client.Access.of(stack, self._layout, api_keys.client_key(stack, self._environ))
        if note := replica_client.predict_example(stack.address, access):
            print(f"note: {note}")


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What every program of the stack may know."""
    return {name: value for name, value in public(environ).items() if name != "API_KEY"}


def _cannot_be_reached(name: str) -> bool:
    """Whether it is a replica whose socket somebody has deleted."""
    slot = slot_of(name)
    return slot > 0 and not Path(replica_socket(slot)).exists()
