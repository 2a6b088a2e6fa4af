"""The stack as the lab's subject: taken as it is, made to be one topology after another, and given back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from typing import Any

from deploy.errors import CommandError
from deploy.options import MAX_REPLICAS, Options
from deploy.rollout import replica_client
from deploy.scaling.adapters.adapter import OPEN_FILES, Adapter, adapter_of, worker_connections
from deploy.scaling.placement import Placement
from deploy.scaling.run import Lab
from deploy.scaling.topology import Topology, size
from deploy.stack.paths import Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack

# What thirds of a CPU may lack of a whole one, three times.
_ROUNDED = 0.01


class Service:
    """One stack of this checkout, on its backend."""

    def __init__(self, layout: Layout, environ: Mapping[str, str], adapter: Adapter, stack: Stack) -> None:
        self.layout = layout
        self.environ = environ
        self.stack = stack
        self._adapter = adapter
        self._backend = adapter.backend
        self._original = stack

    @classmethod
    @contextmanager
    def taken(cls, layout: Layout, environ: Mapping[str, str]) -> Iterator[Service]:
        """The stack that is up, else one that is started; afterwards it is as it was before.

        Raises:
            CommandError: it cannot be started.
        """
        before = Record.load(layout)
        adapter = adapter_of(layout, _options(environ), starting=True)
        service = cls(layout, environ, adapter, adapter.backend.up())
        try:
            yield service
        finally:
            if service.stack is not service._original:
                print("giving the stack back as it was" if before else "stopping the stack", flush=True)
            with suppress(CommandError), redirect_stdout(None):
                service.restore() if before else adapter.backend.down()

    @classmethod
    def running(cls, layout: Layout, environ: Mapping[str, str]) -> Service:
        """The stack that is up, to be measured as it is.

        Raises:
            CommandError: none is.
        """
        record = Record.load(layout)
        if record is None or not replica_client.listens(record.wanted.address):
            raise CommandError("nothing is running here to be measured; start it with: make up")
        return cls(layout, environ, adapter_of(layout, _options(environ), starting=False), record.wanted)

    @property
    def backend(self) -> str:
        """Its name."""
        return self._backend.name

    @property
    def cpus(self) -> list[int]:
        """Those of the machine that runs it."""
        return self._adapter.cpus()

    @property
    def lab(self) -> Lab:
        """What measures the stack as it is now."""
        return self._adapter.lab(self.layout, self.stack, _options(self.environ))

    @property
    def topology(self) -> Topology:
        """What it is now, as far as that is known: local replicas without a limit have all CPUs."""
        health = self.health()
        cpus = self.stack.cpus or float(len(self.cpus))
        memory = Topology.parse(f"1x1/{self.stack.memory}").memory if self.stack.memory else None
        return Topology(self.stack.replicas, int(health.get("workers", 1)), cpus, memory)

    def health(self) -> dict[str, Any]:
        """What a replica says of itself; empty where none answers."""
        status, document = replica_client.request_json(
            self.stack.address, "GET", "/health", access=replica_client.Access.of(self.stack, self.layout)
        )
        return document if status == 200 and isinstance(document, dict) else {}

    def check(self, topology: Topology) -> None:
        """The backend can be this.

        Raises:
            CommandError: it cannot, and why.
        """
        most, replicas = len(self.cpus), MAX_REPLICAS[self.backend]
        if topology.replicas > replicas:
            raise CommandError(f"{topology.name}: expected at most {replicas} replicas")
        if topology.cpus > most:
            raise CommandError(f"{topology.name}: this machine has {most} CPUs")
        if self.backend == "local" and abs(topology.total_cpus - round(topology.total_cpus)) > _ROUNDED:
            raise CommandError(f"{topology.name}: parts of a CPU need Docker; locally all replicas share whole ones")
        if self.backend == "local" and topology.memory:
            raise CommandError(f"{topology.name}: a limit of memory needs Docker")

    def check_users(self, users: int) -> None:
        """Nginx can hold a connection of each, and to the replicas one for every fifth.

        Raises:
            CommandError: it cannot.
        """
        files = self._adapter.open_files()
        most = worker_connections(files) * math.ceil(len(self.cpus) / 4) * 5 // 6
        if users > most:
            remedy = f"; or first, as root: ulimit -n {OPEN_FILES}" if files < OPEN_FILES else ""
            raise CommandError(
                f"USERS={users}: Nginx can hold {most} users' connections, with {files} open files a process{remedy}"
            )

    def become(self, topology: Topology) -> Placement:
        """Run this topology, on CPUs of its own where there are enough.

        Raises:
            CommandError: a replica did not start, with its reason.
        """
        self.check(topology)
        placement = Placement.of(self.cpus, topology.total_cpus)
        environment = self._original.environment | {"WEB_CONCURRENCY": str(topology.workers)}
        if placement.service:
            environment["SERVICE_CPUSET"] = placement.service
        stack = replace(
            self._original,
            replicas=topology.replicas,
            cpus=topology.cpus,
            memory=size(topology.memory) if topology.memory else None,
            environment=environment,
        )
        with redirect_stdout(None):
            self.stack = self._backend.apply(stack)
        return placement

    def restore(self) -> None:
        """Run what ran before."""
        self.stack = self._backend.apply(self._original)

    def record(self, document: str) -> None:
        """Keep results in the stack's MLflow.

        Raises:
            CommandError: it does not take them.
        """
        self._backend.record(document)


def _options(environ: Mapping[str, str]) -> Options:
    """Return the options of the stack; in the lab, topologies say what a replica gets."""
    return Options.read({name: text for name, text in environ.items() if name not in ("N", "CPUS", "MEMORY")})
