"""The record of a running stack, in ``var/stack.json``: its wanted state, and the models that its replicas serve."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

from deploy.errors import CommandError
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from server.errors import SettingsError
from server.system.files import write_atomically


@dataclass(frozen=True, slots=True)
class Served:
    """The model copies that containers were started with and have reloaded since; an empty text stands for none."""

    started_with: str = ""
    reloaded_to: str = ""

    def after_providing(self, copy: str) -> Served:
        """Return what is served once ``copy`` is current: containers that already serve it are not replaced."""
        return self if copy == (self.reloaded_to or self.started_with) else Served(copy)


@dataclass(frozen=True, slots=True)
class Record:
    """The wanted and the observed state of a stack."""

    wanted: Stack
    served: Served = field(default_factory=Served)

    def save(self, layout: Layout) -> None:
        """Write the record for later commands, in place of the one before."""
        document = asdict(self.wanted) | {"model": self.served.started_with, "promoted": self.served.reloaded_to}
        write_atomically(layout.state, json.dumps(document, indent=1), 0o600)

    def with_wanted(self, stack: Stack) -> Record:
        """Return a copy with another wanted state and the same observed one."""
        return replace(self, wanted=stack)

    @classmethod
    def load(cls, layout: Layout) -> Record | None:
        """Return the record of the running stack, or None if there is none.

        Raises:
            CommandError: the record is damaged; the message says how to go on.
        """
        try:
            record = cls._parse(json.loads(layout.state.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, CommandError, SettingsError):
            raise CommandError(f"{layout.state} is damaged: run make down, then make up") from None
        return record

    @classmethod
    def _parse(cls, document: Any) -> Record:
        if not isinstance(document, dict):
            raise TypeError
        served = Served(document.pop("model", ""), document.pop("promoted", ""))
        stack = Stack(**document)
        if not stack.is_valid or not all(isinstance(copy, str) for copy in astuple(served)):
            raise TypeError
        return cls(stack, served)

    @classmethod
    def forget_damaged(cls, layout: Layout) -> None:
        """Delete the record if it is damaged, so that the stack can still be stopped."""
        try:
            cls.load(layout)
        except CommandError:
            layout.state.unlink()
