"""The base class of the backends: the verbs, written once in terms of steps that each backend implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import ClassVar

from deploy.errors import CommandError
from deploy.options import Options
from deploy.rollout import replica_client
from deploy.rollout.promotion import Registrar, Replica, Version, promote, wait_for_version
from deploy.security import api_keys, tls
from deploy.stack.code import code_digest, code_mismatch
from deploy.stack.paths import Layout
from deploy.stack.record import Record
from deploy.stack.registry_services import with_registry
from deploy.stack.specification import Stack


class Client:
    """A client that sends requests to a stack through Nginx. Tests pass a fake one."""

    def predict_example(self, stack: Stack, access: replica_client.Access) -> str | None:
        """Make the stack predict its model's example; return a note if that failed and is not the model's fault."""
        return replica_client.predict_example(stack.address, access)

    def wait_for_version(self, stack: Stack, version: Version, access: replica_client.Access) -> None:
        """Wait until every answer comes from this version."""
        wait_for_version(stack.address, version, stack.replicas, access)


class Backend(ABC):
    """The verbs on one stack. A verb that fails raises a CommandError and restores the stack that ran before it.

    The abstract methods that begin with an underscore are the steps. ``previous`` is the record of the stack that
    runs when a verb starts, or None.
    """

    name: ClassVar[str]
    # The stack that runs if no option changes it.
    default: ClassVar[Stack]
    # The address of the stack's own MLflow; {port} is replaced by its port on this machine.
    registry_address: ClassVar[str]
    # The file mode of the copy of the TLS key that Nginx reads.
    tls_key_mode: ClassVar[int]

    def __init__(self, layout: Layout, options: Options, client: Client | None = None) -> None:
        self._layout = layout
        self._options = options
        self._client = client or Client()
        layout.make()

    # --- the verbs ---------------------------------------------------------------------------------------------------

    def up(self, *, full: bool = False) -> Stack:
        """Start the stack, or change it to what the options ask for; if ``full``, with its own registry.

        A second run converges to the same stack. A failed run stops what it started.
        """
        previous = self._running()
        stack = self._with_limits((previous.wanted if previous else self.default).changed(self._options))
        stack = with_registry(stack, self._options, self.registry_address, full=full)
        tls.check(stack)
        api_keys.check(stack, self._options)
        stack = self._prepare(stack, previous)
        with self._registry_restored_on_failure(stack, previous):
            if stack.full:
                self._start_registry_or_warn(stack, previous)
            record = self._provide_model(stack, previous)
        tls_files = (self._layout.tls_key, self._layout.tls_cert, self._layout.client_key)
        with (
            self._stack_restored_on_failure(previous),
            self._model_restored_on_failure(record),
            tls.restored_on_failure(*tls_files),
        ):
            # Only this user can enter the folder of these copies.
            tls.install(self._layout, stack, mode=self.tls_key_mode)
            self._start(record)
            self._predict_example(stack)
        self._finish(stack)
        return stack

    def scale(self) -> Stack:
        """Change the number of replicas."""
        previous = self._require_running()
        return self._change(previous, previous.wanted.scaled(self._options))

    def resources(self) -> Stack:
        """Change the CPU and memory limits of each replica."""
        previous = self._require_running()
        if not (self._options.cpus or self._options.memory):
            raise CommandError(self._limits_missing)
        return self._change(previous, self._with_limits(previous.wanted))

    def apply(self, stack: Stack) -> Stack:
        """Make exactly this stack run, with the current model and code."""
        return self._change(self._require_running(), stack)

    def restart(self) -> Stack:
        """Replace every replica, one after another, so that at least one always answers."""
        previous = self._require_running()
        record = self._provide_newest_model(previous)
        with self._stack_restored_on_failure(previous), self._model_restored_on_failure(record):
            self._replace_replicas(record)
        return record.wanted

    def promote(self, version: str | None, *, force: bool) -> Version:
        """Reload every replica to a version of the model; None means the previous version.

        ``force`` accepts a version with another signature. If nothing runs, only the registry changes.
        """
        previous = self._running()
        stack = previous.wanted if previous else self._with_limits(self.default.changed(self._options))
        replicas, registrar = self._replicas_and_registrar(stack, previous)
        code = code_digest()
        if name := next((replica.name for replica in replicas if not replica.runs_code(code)), None):
            raise CommandError(code_mismatch(name))
        graceful_timeout = stack.settings(self._layout).graceful_timeout
        promoted = promote(replicas, registrar, version, force=force, graceful_timeout=graceful_timeout)
        if previous is not None:
            self._record_promotion(previous, promoted)
            self._client.wait_for_version(stack, promoted, replica_client.Access.of(stack, self._layout))
        return promoted

    @abstractmethod
    def monitoring(self) -> Mapping[str, str]:
        """Start monitoring of the running stack; return the addresses of its pages by name."""

    @abstractmethod
    def train(self) -> None:
        """Train a model and register it in the stack's registry."""

    @abstractmethod
    def compile(self) -> None:
        """Compile a model; store the result in its registry, or next to its folder."""

    @abstractmethod
    def record(self, document: str) -> None:
        """Log measured runs (deploy/models/registry/record.py) in the stack's registry."""

    @abstractmethod
    def status(self) -> list[str]:
        """Return a line for each container or program, and notes on problems."""

    @abstractmethod
    def stats(self) -> None:
        """Show the CPU and memory that the stack uses."""

    @abstractmethod
    def logs(self) -> None:
        """Show the log of a service."""

    @abstractmethod
    def down(self) -> None:
        """Stop the whole stack and keep its data."""

    # --- shared by both backends -------------------------------------------------------------------------------------

    def _require_running(self) -> Record:
        record = self._running()
        if record is None:
            raise CommandError("nothing is running here; start it with: make up")
        return record

    def _change(self, previous: Record, stack: Stack) -> Stack:
        with self._stack_restored_on_failure(previous):
            self._converge(previous.with_wanted(stack))
        return stack

    @contextmanager
    def _stack_restored_on_failure(self, previous: Record | None) -> Iterator[None]:
        """If the block fails, restore the previous stack, or stop everything, and raise the block's error."""
        try:
            yield
        except BaseException:
            with suppress(CommandError, OSError):
                self.down() if previous is None else self._converge(previous)
            raise

    @contextmanager
    def _registry_restored_on_failure(self, stack: Stack, previous: Record | None) -> Iterator[None]:
        """If the block fails, stop a registry that it started and keep its data."""
        try:
            yield
        except BaseException:
            with suppress(CommandError, OSError):
                if previous is None:
                    self.down()
                elif stack.full:
                    self._restore_registry(stack, previous)
            raise

    def _start_registry_or_warn(self, stack: Stack, previous: Record | None) -> None:
        try:
            self._start_registry(stack)
        except CommandError as error:
            if previous is None or not previous.wanted.full:
                raise
            # A stack that served before can go on serving without its registry.
            print(f"note: the registry did not start, so the last good copy is served: {error}", flush=True)

    def _predict_example(self, stack: Stack) -> None:
        """Send one prediction request through Nginx and print a note if it failed for an excusable reason."""
        access = replica_client.Access.of(stack, self._layout, api_keys.client_key(stack, self._options))
        if note := self._client.predict_example(stack, access):
            print(f"note: {note}")

    # --- the steps ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _limits_missing(self) -> str:
        """The error message of `make resources` without a limit."""

    @abstractmethod
    def _running(self) -> Record | None:
        """Return the record of the stack that runs, or None."""

    @abstractmethod
    def _with_limits(self, stack: Stack) -> Stack:
        """Return the stack with the limits that the options ask for.

        Raises:
            CommandError: this backend cannot enforce them, or cannot serve such a stack.
        """

    @abstractmethod
    def _prepare(self, stack: Stack, previous: Record | None) -> Stack:
        """Check ports and get programs or images; return the stack with its final ports."""

    @abstractmethod
    def _start_registry(self, stack: Stack) -> None:
        """Start the stack's own MLflow and wait until it answers."""

    @abstractmethod
    def _restore_registry(self, stack: Stack, previous: Record) -> None:
        """Return the registry to its state in the previous stack."""

    @abstractmethod
    def _provide_model(self, stack: Stack, previous: Record | None) -> Record:
        """Resolve the model of the stack, or train the default one; return the record that serves it."""

    def _model_restored_on_failure(self, _record: Record) -> AbstractContextManager[None]:
        """Return a context that makes the previous model current again if its block fails."""
        return nullcontext()

    @abstractmethod
    def _start(self, record: Record) -> None:
        """Start what is not running yet, then converge."""

    @abstractmethod
    def _converge(self, record: Record) -> None:
        """Make exactly this stack run, new replicas before old ones stop, and save the record."""

    def _finish(self, _stack: Stack) -> None:
        """Do the work that can wait until the stack serves."""
        return

    def _provide_newest_model(self, previous: Record) -> Record:
        """Resolve the model again; return the record that serves the version that the registry has now."""
        return previous

    @abstractmethod
    def _replace_replicas(self, record: Record) -> None:
        """Replace every replica by a new one with the same configuration."""

    @abstractmethod
    def _replicas_and_registrar(self, stack: Stack, previous: Record | None) -> tuple[Sequence[Replica], Registrar]:
        """Return the running replicas and the registrar for a promotion."""

    def _record_promotion(self, _previous: Record, _promoted: Version) -> None:
        """Save in the record that the replicas serve the promoted version."""
        return
