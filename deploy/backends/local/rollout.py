"""The replicas and the registrar of a promotion (:mod:`deploy.rollout.promotion`) under supervisord."""

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
    """The replica in a slot; ``pid`` is the process id of its Gunicorn master."""

    slot: int
    pid: int
    supervisord: Supervisord

    @property
    def name(self) -> str:
        """The name of the replica, as `make status` shows it."""
        return replica_name(self.slot)

    def runs_code(self, digest: str) -> bool:
        """Return whether the replica was started with this code."""
        return self.supervisord.has_variable(self.name, CODE_DIGEST, digest)

    def health(self) -> Mapping[str, Any]:
        """Return the replica's `/health` document; empty if it does not answer."""
        status, document = replica_client.get_json_over_socket(replica_socket(self.slot), "/health")
        return document if status == 200 else {}

    def send_sighup(self) -> None:
        """Send SIGHUP to the Gunicorn master, so that it reloads.

        Raises:
            CommandError: there is no master.
        """
        self.pid = self._master_pid()
        try:
            if self.pid:
                os.kill(self.pid, signal.SIGHUP)
                return
        except ProcessLookupError:
            pass
        raise CommandError(f"{self.name}: its master has ended; see make logs")

    def failure(self) -> str | None:
        """Return why the master ended or was replaced since the reload, or None."""
        return None if self._master_pid() == self.pid else "its master has ended; see make logs"

    def _master_pid(self) -> int:
        return int(self.supervisord.info().get(self.name, {}).get("pid", 0))


@dataclass(frozen=True, slots=True)
class LocalRegistrar:
    """The steps of :mod:`deploy.models.promote`, each in its own process."""

    environment: Mapping[str, str]

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        """Copy the candidate to this machine and test it."""
        options = [*(["--served", served] if served else []), *(["--force"] if force else [])]
        return self._run_step("check", *options, *(["--", version] if version else ["--before"]))

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Point the registry's alias to the candidate."""
        return self._run_step("accept", document=candidate)

    def undo(self, previous: Mapping[str, Any]) -> None:
        """Restore what the candidate replaced; ``previous`` is the result of :meth:`accept`."""
        self._run_step("undo", document=previous)

    def _run_step(self, *arguments: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        completed = subprocess.run(
            [sys.executable, "-m", "deploy.models.promote", *arguments],
            cwd=ROOT, env=dict(self.environment), input=json.dumps(document or {}), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if completed.returncode:
            reason = last_line(completed.stderr, f"status {completed.returncode}")
            raise CommandError(reason.removeprefix("error: "))
        answer: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
        return answer
