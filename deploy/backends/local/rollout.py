"""Replicas under supervisord as :mod:`deploy.rollout.promotion` sees them, and its registrar: a process beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.backends.local.programs import CODE_DIGEST
from deploy.backends.local.slots import replica_name, replica_socket
from deploy.backends.local.supervisord import Supervisord
from deploy.errors import CommandError
from deploy.rollout import replica_client
from deploy.stack.paths import ROOT
from server.errors import last_line


@dataclass(slots=True)
class LocalReplica:
    """The program in a slot; ``pid`` is its master's."""

    slot: int
    pid: int
    supervisord: Supervisord

    @property
    def name(self) -> str:
        """As `make status` calls it."""
        return replica_name(self.slot)

    def runs_code(self, digest: str) -> bool:
        """Return whether its program was written for this code."""
        return self.supervisord.sets(self.name, CODE_DIGEST, digest)

    def health(self) -> Mapping[str, Any]:
        """What it says of itself."""
        status, document = replica_client.get_json_over_socket(replica_socket(self.slot), "/health")
        return document if status == 200 else {}

    def send_sighup(self) -> None:
        """Tell Gunicorn's master to reload."""
        self.pid = self._now()
        try:
            if self.pid:
                os.kill(self.pid, signal.SIGHUP)
                return
        except ProcessLookupError:
            pass
        raise CommandError(f"{self.name}: its master has ended; see make logs")

    def failure(self) -> str | None:
        """Whether the master has ended meanwhile."""
        return None if self._now() == self.pid else "its master has ended; see make logs"

    def _now(self) -> int:
        return int(self.supervisord.info().get(self.name, {}).get("pid", 0))


@dataclass(frozen=True, slots=True)
class LocalRegistrar:
    """The steps of :mod:`deploy.models.promote`, each in a process that is thrown away."""

    environment: Mapping[str, str]

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        """Bring the candidate to this machine, and try it."""
        options = [*(["--served", served] if served else []), *(["--force"] if force else [])]
        return self._step("check", *options, *(["--", version] if version else ["--before"]))

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Let the registry's alias lead to it."""
        return self._step("accept", document=candidate)

    def undo(self, previous: Mapping[str, Any]) -> None:
        """Restore what the candidate replaced; ``previous`` is the result of :meth:`accept`."""
        self._step("undo", document=previous)

    def _step(self, *arguments: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        ran = subprocess.run(
            [sys.executable, "-m", "deploy.models.promote", *arguments],
            cwd=ROOT, env=dict(self.environment), input=json.dumps(document or {}), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if ran.returncode:
            reason = last_line(ran.stderr, f"status {ran.returncode}")
            raise CommandError(reason.removeprefix("error: "))
        answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return answer
