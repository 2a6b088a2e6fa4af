"""The contract of a backend: the verbs, with one meaning wherever the stack runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from deploy.rollout.promotion import Version
from deploy.stack.specification import Stack


class Backend(Protocol):
    """The verbs that mean the same on every backend. Each raises a CommandError where it cannot do its work."""

    name: str

    def up(self, *, full: bool = False) -> Stack:
        """Start or change the stack to what was asked for; if ``full``, with a registry of its own."""
        ...

    def scale(self) -> Stack:
        """Change the number of replicas."""
        ...

    def resources(self) -> Stack:
        """Change the CPUs and memory that each replica may use."""
        ...

    def become(self, stack: Stack) -> Stack:
        """Make exactly this stack run, whatever runs now."""
        ...

    def restart(self) -> Stack:
        """Replace every replica, one after another."""
        ...

    def monitoring(self) -> Mapping[str, str]:
        """Start what watches the running stack; return the addresses of its pages by name."""
        ...

    def promote(self, version: str | None, *, force: bool) -> Version:
        """Reload every replica to a version of the model, or with None to the one before.

        ``force`` accepts a version with other columns.
        """
        ...

    def train(self) -> None:
        """Train a model and register it in the stack's registry."""
        ...

    def compile(self) -> None:
        """Compile a model, into its registry or beside its folder."""
        ...

    def record(self, document: str) -> None:
        """Log measured runs (deploy/models/registry/record.py) in the stack's registry."""
        ...

    def status(self) -> list[str]:
        """Return a line for each container or program, and notes on what is wrong."""
        ...

    def stats(self) -> None:
        """Show CPU and memory."""
        ...

    def logs(self) -> None:
        """Show what a service printed."""
        ...

    def down(self) -> None:
        """Stop everything; data stays."""
        ...
