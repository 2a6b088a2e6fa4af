"""The record of a stack that is up, in ``var/stack.json``: what it was asked to be, and what its replicas serve."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from deploy.errors import CommandError
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from server.errors import SettingsError
from server.system.files import write_atomically


@dataclass(frozen=True, slots=True)
class Served:
    """The copies of a model that containers were started with, and reloaded to since; empty where there is none."""

    started_with: str = ""
    reloaded_to: str = ""

    def after_providing(self, model: str) -> Served:
        """Return what is served once this copy is current: containers that have reloaded to it are not replaced."""
        return self if model == (self.reloaded_to or self.started_with) else Served(model)


@dataclass(frozen=True, slots=True)
class Record:
    """The wanted state of a stack, and the observed one."""

    wanted: Stack
    served: Served = field(default_factory=Served)

    def save(self, layout: Layout) -> None:
        """Remember it for the next verb."""
        document = asdict(self.wanted) | {"model": self.served.started_with, "promoted": self.served.reloaded_to}
        write_atomically(layout.state, json.dumps(document, indent=1), 0o600)

    def with_wanted(self, stack: Stack) -> Record:
        """Return the record of the same containers, asked to be this stack."""
        return replace(self, wanted=stack)

    @classmethod
    def load(cls, layout: Layout) -> Record | None:
        """Return the record of the stack that was last asked for, or None where it was taken down.

        Raises:
            CommandError: the record is damaged.
        """
        try:
            record = cls._parse(json.loads(layout.state.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, CommandError, SettingsError):
            raise CommandError(f"{layout.state} is damaged: make down, then make up") from None
        return record

    @classmethod
    def _parse(cls, document: Any) -> Record:
        if not isinstance(document, dict):
            raise TypeError
        served = Served(document.pop("model", ""), document.pop("promoted", ""))
        stack = Stack(**document)
        if not stack.is_valid or not all(isinstance(getattr(served, one.name), str) for one in fields(served)):
            raise TypeError
        return cls(stack, served)

    @classmethod
    def forget_damaged(cls, layout: Layout) -> None:
        """Remove a record that cannot be read, for those who stop whatever runs."""
        try:
            cls.load(layout)
        except CommandError:
            layout.state.unlink()
