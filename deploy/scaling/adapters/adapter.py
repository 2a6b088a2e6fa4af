"""The backend of a stack as the lab uses it. No other part of the lab knows the backends."""

from __future__ import annotations

from typing import Protocol

from deploy.backends.base import Backend
from deploy.backends.choice import choose
from deploy.backends.local.file_limits import OPEN_FILES
from deploy.backends.local.nginx import worker_connections
from deploy.options import Options
from deploy.scaling.adapters.docker_lab import DockerAdapter
from deploy.scaling.run import Lab
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack

__all__ = ["OPEN_FILES", "Adapter", "adapter_of", "worker_connections"]


class Adapter(Protocol):
    """A backend with what the lab needs beside its verbs."""

    backend: Backend

    def cpus(self) -> list[int]:
        """Return the numbers of the CPUs that may run the stack."""
        ...

    def open_files(self) -> int:
        """Return how many files a process of Nginx may open."""
        ...

    def lab(self, layout: Layout, stack: Stack, options: Options) -> Lab:
        """Return what measures this stack."""
        ...


def adapter_of(layout: Layout, options: Options, *, starting: bool) -> Adapter:
    """Return the adapter to the backend that a command works on; see :func:`deploy.backends.choice.choose`.

    Raises:
        CommandError: there is no such backend.
    """
    backend = choose(layout, options, starting=starting)
    if backend.name == "docker":
        return DockerAdapter(backend)
    # Imported here: a machine that runs containers has none of its packages.
    from deploy.scaling.adapters.local_lab import LocalAdapter  # noqa: PLC0415

    return LocalAdapter(backend)
