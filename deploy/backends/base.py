"""What every backend can do: the verbs, with one meaning wherever the stack runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from deploy.rollout.promotion import Version
from deploy.stack.specification import Stack


class Backend(Protocol):
    """The verbs that mean the same on every backend. Each raises a CommandError where it cannot do its work."""

    name: str

    def up(self, *, full: bool = False) -> Stack:
        """Run what was asked for, if ``full`` with a registry of its own; again, and it converges."""
        ...

    def scale(self) -> Stack:
        """Another number of replicas."""
        ...

    def resources(self) -> Stack:
        """Other limits for each replica."""
        ...

    def become(self, stack: Stack) -> Stack:
        """Exactly this, whatever runs."""
        ...

    def restart(self) -> Stack:
        """Every replica anew."""
        ...

    def monitoring(self) -> Mapping[str, str]:
        """What watches the stack that is up; its pages, and where they are."""
        ...

    def promote(self, version: str | None, *, force: bool) -> Version:
        """Another version of the model, by reload; None for the one before. ``force`` lets other columns pass."""
        ...

    def train(self) -> None:
        """A new model in the stack's registry."""
        ...

    def compile(self) -> None:
        """A compiled form of a model, in its registry or beside its folder."""
        ...

    def record(self, document: str) -> None:
        """Measured runs (deploy/models/registry/record.py), logged in the stack's registry."""
        ...

    def status(self) -> list[str]:
        """What runs, a line each."""
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
