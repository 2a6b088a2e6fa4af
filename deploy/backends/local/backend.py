"""The local backend: each step computes what should run, and lets supervisord converge to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from deploy.backends.base import Backend, Client
from deploy.backends.local import nginx, registry
from deploy.backends.local.programs import CODE_DIGEST, programs
from deploy.backends.local.readiness import Readiness
from deploy.backends.local.rollout import LocalRegistrar, LocalReplica
from deploy.backends.local.slots import replica_name, replica_socket, slot_of
from deploy.backends.local.supervisord import Supervisord
from deploy.backends.local.watch import follow_logs, stats, status
from deploy.errors import CommandError
from deploy.models.ensure import ensure_model
from deploy.options import ModelOptions, Options
from deploy.rollout.promotion import Registrar, Replica
from deploy.security import api_keys
from deploy.stack import ports
from deploy.stack.code import code_digest
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record
from deploy.stack.registry_services import OWN_REGISTRY_VARIABLE, SERVER_ONLY_VARIABLES
from deploy.stack.specification import Stack
from server.errors import last_line
from server.system.platform import usable_cpus


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The objects and functions that the local backend uses. Tests pass fakes."""

    supervisord: Supervisord
    readiness: Readiness
    client: Client | None = None
    # Returns the path of Nginx, which it may install.
    find_nginx: Callable[[], str] = nginx.find_nginx
    # Resolves the model, or trains the default one.
    ensure_model: Callable[[ModelOptions], object] = ensure_model
    registrar: Callable[[Mapping[str, str]], Registrar] = LocalRegistrar
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """Return the real dependencies for the stack in this folder."""
        supervisord = Supervisord(layout)
        return cls(supervisord, Readiness(layout, supervisord))


class LocalBackend(Backend):
    """The stack in one ``var``, which becomes the working directory since socket paths are relative to it."""

    name = "local"
    default = Stack()
    registry_address = registry.ADDRESS
    tls_key_mode = 0o600
    _limits_missing = "CPUS is missing: make resources CPUS=1"

    def __init__(self, layout: Layout, options: Options, dependencies: Dependencies | None = None) -> None:
        self._dependencies = dependencies or Dependencies.of(layout)
        self._supervisord, self._readiness = self._dependencies.supervisord, self._dependencies.readiness
        super().__init__(layout, options, self._dependencies.client)
        os.chdir(layout.var)

    def monitoring(self) -> Mapping[str, str]:
        """Refuse monitoring; the error says how to read the metrics of a replica by hand.

        Raises:
            CommandError: always.
        """
        if self._options.backend != "local":
            self._require_running()
        raise CommandError(
            "monitoring needs Docker (BACKEND=docker); to read the metrics of a local replica: "
            f"curl --unix-socket {self._layout.var / replica_socket(1)} http://localhost/metrics"
        )

    def train(self) -> None:
        """Replace this process by the training program; does not return."""
        self._replace_process("deploy.models.training.train")

    def compile(self) -> None:
        """Replace this process by the compiler of models; does not return."""
        self._replace_process("deploy.models.compile.compile_model")

    def record(self, document: str) -> None:
        """Log measured runs in the stack's registry."""
        completed = self._dependencies.run(
            [sys.executable, "-m", "deploy.models.registry.record"],
            cwd=ROOT, env=self._program_environment(self._stack()), input=document, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if completed.returncode:
            reason = last_line(completed.stderr, f"status {completed.returncode}")
            raise CommandError(f"no run was logged: {reason.removeprefix('error: ')}")

    def status(self) -> list[str]:
        """Return a line for each program, and notes on problems."""
        return status(self._require_running().wanted, self._supervisord, self._layout)

    def stats(self) -> None:
        """Print the CPU and memory of each program; at a terminal, refresh until Ctrl-C."""
        stack = self._require_running().wanted
        while True:
            lines = stats(stack, self._supervisord)
            if not sys.stdout.isatty():
                print("\n".join(lines))
                return
            print("\033[2J\033[H" + "\n".join(lines), flush=True)

    def logs(self) -> None:
        """Replace this process by `tail` of a service's log; does not return."""
        follow_logs(self._layout, self._options.service)

    def down(self) -> None:
        """Stop everything that this stack started."""
        self._supervisord.shut_down()
        self._layout.delete_stack_files()
        for path in self._layout.run.iterdir():
            path.unlink(missing_ok=True)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _running(self) -> Record | None:
        return Record.load(self._layout) if self._supervisord.pid is not None else None

    def _with_limits(self, stack: Stack) -> Stack:
        # SERVER_CPUS and SERVER_MEMORY apply to containers only, but one settings file may serve both backends.
        if self._options.memory and self._options.memory.variable == "MEMORY":
            raise CommandError("MEMORY= needs Docker: the local backend has no memory limits")
        cpus, max_cpus = self._options.cpus, len(usable_cpus())
        if cpus is None or cpus.variable != "CPUS":
            return stack
        if cpus.value % 1 or not 1 <= cpus.value <= max_cpus:
            raise CommandError(
                f"{cpus.variable}={cpus.text!r}: expected a whole number from 1 to {max_cpus}; "
                "fractions of a CPU need Docker"
            )
        return replace(stack, cpus=int(cpus.value))

    def _prepare(self, stack: Stack, previous: Record | None) -> Stack:
        if previous is None:
            self._supervisord.stop_leftovers()
        _ = self._nginx  # Nginx is installed before anything starts.
        if stack.http_port is None:
            stack = replace(stack, http_port=ports.default(stack.http_host, *ports.HTTP))
        if stack.has_tls and stack.https_port is None:
            stack = replace(stack, https_port=ports.default(stack.http_host, *ports.HTTPS))
        for variable, (host, port) in stack.new_ports(previous.wanted if previous else None).items():
            ports.check_free(host, port, variable)
        stack.check_ports()
        return stack

    def _start_registry(self, stack: Stack) -> None:
        self._start_supervisord()
        registry.start(self._supervisord, stack, self._layout)
        self._readiness.wait_for_registry(stack)

    def _restore_registry(self, _stack: Stack, previous: Record) -> None:
        self._converge(previous)

    def _provide_model(self, stack: Stack, _previous: Record | None) -> Record:
        environment = self._program_environment(stack) | (
            {OWN_REGISTRY_VARIABLE: stack.tracking_uri} if stack.full else {}
        )
        self._dependencies.ensure_model(ModelOptions.read(environment))
        return Record(stack)

    def _start(self, record: Record) -> None:
        self._write_client_key(record.wanted)
        self._start_supervisord()
        self._converge(record)

    def _converge(self, record: Record) -> None:
        """Converge; before a single replica is replaced, start a second one, so that one always answers."""
        self._supervisord.write(programs(record.wanted, self._layout, self._nginx))
        _, changed, removed = self._supervisord.config_changes()
        is_single = record.wanted.replicas == 1 and not any(map(slot_of, removed))
        if is_single and replica_name(1) in changed:
            self._run_programs(record.with_wanted(replace(record.wanted, replicas=2)))
        self._run_programs(record)

    def _replace_replicas(self, record: Record) -> None:
        stack = record.wanted
        names = [replica_name(slot) for slot in range(1, stack.replicas + 1)]
        current = [name for name in names if self._supervisord.has_variable(name, CODE_DIGEST, code_digest())]
        if stack.replicas == 1:
            self._run_programs(record.with_wanted(replace(stack, replicas=2)))
        for name in current:  # _run_programs replaces the replicas with other code.
            self._wait_for_other_replicas(name)
            self._supervisord.restart(name)
            self._readiness.wait_ready(name)
        self._run_programs(record)

    def _replicas_and_registrar(self, stack: Stack, previous: Record | None) -> tuple[Sequence[Replica], Registrar]:
        info = self._supervisord.info() if previous else {}
        replicas = [LocalReplica(slot_of(name), info[name]["pid"], self._supervisord) for name in info if slot_of(name)]
        return replicas, self._dependencies.registrar(self._program_environment(stack))

    @cached_property
    def _nginx(self) -> str:
        """The path of the nginx executable."""
        return self._dependencies.find_nginx()

    def _run_programs(self, record: Record) -> None:
        """Make supervisord run exactly this stack: new replicas first, then changed programs one by one, then others.

        Raises:
            CommandError: a program did not start, with the reason.
        """
        stack = record.wanted
        self._supervisord.write(programs(stack, self._layout, self._nginx))
        added, changed, removed = self._supervisord.config_changes()
        self._supervisord.add(*filter(slot_of, added))
        self._start_ended_programs()
        self._readiness.wait_ready(*filter(slot_of, added))
        for name in changed:
            if slot_of(name):
                self._wait_for_other_replicas(name)
            self._supervisord.replace(name)
            self._readiness.wait_ready(*filter(slot_of, [name]))
        self._supervisord.add(*(name for name in added if not slot_of(name)))
        self._supervisord.remove(*removed)
        record.save(self._layout)
        self._readiness.wait_ready(*(replica_name(slot) for slot in range(1, stack.replicas + 1)))
        self._readiness.wait_for_addresses(stack)
        if added:
            self._readiness.warm_up_nginx(stack)

    def _wait_for_other_replicas(self, name: str) -> None:
        """Wait until the other replicas are ready, since this one is about to stop; skip those that cannot start."""
        for replica in filter(slot_of, self._supervisord.info()):
            if replica != name:
                with suppress(CommandError):
                    self._readiness.wait_ready(replica)

    def _start_ended_programs(self) -> None:
        for name, process in self._supervisord.info().items():
            # A stopping program was left behind by an interrupted command.
            if process["statename"] in ("STOPPING", "STOPPED", "EXITED", "FATAL"):
                self._supervisord.revive(name)
            elif process["statename"] == "RUNNING" and _has_lost_its_socket(name):
                self._supervisord.restart(name)

    def _write_client_key(self, stack: Stack) -> None:
        """Write the API key to the file that Locust reads before each test."""
        path = self._layout.client_key
        path.unlink(missing_ok=True)
        if key := api_keys.client_key(stack, self._options):
            path.touch(mode=0o600)
            path.write_text(key)

    def _start_supervisord(self) -> None:
        """Start supervisord with the environment that every program of the stack may read."""
        hidden = {*SERVER_ONLY_VARIABLES, "API_KEY"}
        self._supervisord.start({name: text for name, text in self._options.environment.items() if name not in hidden})

    def _stack(self) -> Stack:
        running = self._running()
        return running.wanted if running else self.default

    def _program_environment(self, stack: Stack) -> dict[str, str]:
        """Return the environment of a program that uses the models and the registry of a stack."""
        return {**self._options.environment, **stack.environment, "VAR_DIR": str(self._layout.var)}

    def _replace_process(self, module: str) -> None:
        option_texts = self._options.texts(self._options.environment)
        environment = {**self._stack().environment, **option_texts, "VAR_DIR": str(self._layout.var)}
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-m", module], environment)  # noqa: S606


def _has_lost_its_socket(name: str) -> bool:
    """Return whether this is a replica whose socket file was deleted."""
    slot = slot_of(name)
    return slot > 0 and not Path(replica_socket(slot)).exists()
