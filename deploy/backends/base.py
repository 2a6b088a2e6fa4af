"""A backend: the verbs on a stack, written once over the steps that differ between containers and local processes."""

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
    """Uses a stack through Nginx, as its users' clients do. Tests hand in another."""

    def predict_example(self, stack: Stack, access: replica_client.Access) -> str | None:
        """Let the stack predict its model's example; return what should be known of the answer, if anything."""
        return replica_client.predict_example(stack.address, access)

    def wait_for_version(self, stack: Stack, version: Version, access: replica_client.Access) -> None:
        """Wait until every answer comes from this version."""
        wait_for_version(stack.address, version, stack.replicas, access)


class Backend(ABC):
    """The verbs on one stack. Each raises a CommandError where it cannot do its work, and then leaves what ran before.

    The abstract methods that begin with an underscore are the steps. ``previous`` is the record of the stack that
    runs while a verb changes it, or None.
    """

    name: ClassVar[str]
    # What runs where no option says otherwise.
    default: ClassVar[Stack]
    # Where clients reach the stack's own MLflow; {port} stands for its port on this machine.
    registry_address: ClassVar[str]
    # The mode of the copy of the certificate's key that Nginx reads.
    key_mode: ClassVar[int]

    def __init__(self, layout: Layout, options: Options, client: Client | None = None) -> None:
        self._layout = layout
        self._options = options
        self._client = client or Client()
        layout.make()

    # --- the verbs ---------------------------------------------------------------------------------------------------

    def up(self, *, full: bool = False) -> Stack:
        """Start or change the stack to what was asked for; if ``full``, with a registry of its own.

        Run again, it converges. Where it fails, what it started is stopped again.
        """
        previous = self._running()
        stack = self._limited((previous.wanted if previous else self.default).changed(self._options))
        stack = with_registry(stack, self._options, self.registry_address, full=full)
        tls.check(stack)
        api_keys.check(stack, self._options)
        stack = self._prepared(stack, previous)
        with self._registry_undone_on_failure(stack, previous):
            if stack.full:
                self._start_registry_or_say_why(stack, previous)
            record = self._with_model(stack, previous)
        shown = (self._layout.tls_key, self._layout.tls_cert, self._layout.client_key)
        with self._undone_on_failure(previous), self._model_taken_back(record), tls.restored_on_failure(*shown):
            # In a folder of this user alone.
            tls.install(self._layout, stack, mode=self.key_mode)
            self._start(record)
            self._predict(stack)
        self._finish(stack)
        return stack

    def scale(self) -> Stack:
        """Change the number of replicas."""
        previous = self._require_running()
        return self._change(previous, previous.wanted.scaled(self._options))

    def resources(self) -> Stack:
        """Change the CPUs and the memory that each replica may use."""
        previous = self._require_running()
        if not (self._options.cpus or self._options.memory):
            raise CommandError(self._limits_missing)
        return self._change(previous, self._limited(previous.wanted))

    def apply(self, stack: Stack) -> Stack:
        """Make exactly this stack run, with the model and the code that are there."""
        return self._change(self._require_running(), stack)

    def restart(self) -> Stack:
        """Replace every replica, one after another, so that there is always one that answers."""
        previous = self._require_running()
        record = self._with_newest_model(previous)
        with self._undone_on_failure(previous), self._model_taken_back(record):
            self._replace_replicas(record)
        return record.wanted

    def promote(self, version: str | None, *, force: bool) -> Version:
        """Reload every replica to a version of the model, or with None to the one before.

        ``force`` accepts a version with another signature. Where nothing runs, the registry alone changes.
        """
        previous = self._running()
        stack = previous.wanted if previous else self._limited(self.default.changed(self._options))
        replicas, registrar = self._rollout(stack, previous)
        code = code_digest()
        if name := next((replica.name for replica in replicas if not replica.runs_code(code)), None):
            raise CommandError(code_mismatch(name))
        graceful_timeout = stack.settings(self._layout).graceful_timeout
        promoted = promote(replicas, registrar, version, force=force, graceful_timeout=graceful_timeout)
        if previous is not None:
            self._reloaded(previous, promoted)
            self._client.wait_for_version(stack, promoted, replica_client.Access.of(stack, self._layout))
        return promoted

    @abstractmethod
    def monitoring(self) -> Mapping[str, str]:
        """Start what watches the running stack; return the addresses of its pages by name."""

    @abstractmethod
    def train(self) -> None:
        """Train a model and register it in the stack's registry."""

    @abstractmethod
    def compile(self) -> None:
        """Compile a model, into its registry or beside its folder."""

    @abstractmethod
    def record(self, document: str) -> None:
        """Log measured runs (deploy/models/registry/record.py) in the stack's registry."""

    @abstractmethod
    def status(self) -> list[str]:
        """Return a line for each container or program, and notes on what is wrong."""

    @abstractmethod
    def stats(self) -> None:
        """Show CPU and memory."""

    @abstractmethod
    def logs(self) -> None:
        """Show what a service printed."""

    @abstractmethod
    def down(self) -> None:
        """Stop everything; data stays."""

    # --- what both backends do alike ---------------------------------------------------------------------------------

    def _require_running(self) -> Record:
        record = self._running()
        if record is None:
            raise CommandError("nothing is running here; start it with: make up")
        return record

    def _change(self, previous: Record, stack: Stack) -> Stack:
        with self._undone_on_failure(previous):
            self._converge(previous.with_wanted(stack))
        return stack

    @contextmanager
    def _undone_on_failure(self, previous: Record | None) -> Iterator[None]:
        """Go back to what ran before, or to nothing, where the block fails. Its error is the one that is raised."""
        try:
            yield
        except BaseException:
            with suppress(CommandError, OSError):
                self.down() if previous is None else self._converge(previous)
            raise

    @contextmanager
    def _registry_undone_on_failure(self, stack: Stack, previous: Record | None) -> Iterator[None]:
        """Stop a registry that was started in the block, where the block fails; its data stays."""
        try:
            yield
        except BaseException:
            with suppress(CommandError, OSError):
                if previous is None:
                    self.down()
                elif stack.full:
                    self._restore_registry(stack, previous)
            raise

    def _start_registry_or_say_why(self, stack: Stack, previous: Record | None) -> None:
        try:
            self._start_registry(stack)
        except CommandError as error:
            if previous is None or not previous.wanted.full:
                raise
            # What has been served goes on being so without it.
            print(f"note: the registry did not come up, so that the last good copy is served: {error}", flush=True)

    def _predict(self, stack: Stack) -> None:
        """Make one prediction through Nginx, as a user's client would."""
        access = replica_client.Access.of(stack, self._layout, api_keys.client_key(stack, self._options))
        if note := self._client.predict_example(stack, access):
            print(f"note: {note}")

    # --- the steps ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _limits_missing(self) -> str:
        """The error of `make resources` where no limit is asked for."""

    @abstractmethod
    def _running(self) -> Record | None:
        """Return the record of the stack that runs, or None."""

    @abstractmethod
    def _limited(self, stack: Stack) -> Stack:
        """Return the stack with the limits that the options ask for.

        Raises:
            CommandError: this backend cannot keep them, or cannot serve such a stack.
        """

    @abstractmethod
    def _prepared(self, stack: Stack, previous: Record | None) -> Stack:
        """Check ports and get programs or images; return the stack with the ports that it will listen on."""

    @abstractmethod
    def _start_registry(self, stack: Stack) -> None:
        """Start the stack's own MLflow, and wait until it answers."""

    @abstractmethod
    def _restore_registry(self, stack: Stack, previous: Record) -> None:
        """Make the registry what it was before ``stack`` was asked for."""

    @abstractmethod
    def _with_model(self, stack: Stack, previous: Record | None) -> Record:
        """Find the model that the stack asks for, or train the default one; return the record that serves it."""

    def _model_taken_back(self, _record: Record) -> AbstractContextManager[None]:
        """Return what makes the model of before the current one where the block fails."""
        return nullcontext()

    @abstractmethod
    def _start(self, record: Record) -> None:
        """Start what is not running yet, and converge."""

    @abstractmethod
    def _converge(self, record: Record) -> None:
        """Make exactly this run: new replicas first, then the old ones go, one by one. Save the record."""

    def _finish(self, _stack: Stack) -> None:
        """Do what follows once a stack serves."""
        return

    def _with_newest_model(self, previous: Record) -> Record:
        """Return the record of a stack that serves the model that its registry has now."""
        return previous

    @abstractmethod
    def _replace_replicas(self, record: Record) -> None:
        """Replace every replica by one of the same configuration."""

    @abstractmethod
    def _rollout(self, stack: Stack, previous: Record | None) -> tuple[Sequence[Replica], Registrar]:
        """Return the replicas that run, and what asks the registry."""

    def _reloaded(self, _previous: Record, _promoted: Version) -> None:
        """Remember that the replicas were reloaded."""
        return
