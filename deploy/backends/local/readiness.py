"""Waiting for what supervisord started, and the reason where it does not come up."""

from __future__ import annotations

import time

from deploy.backends.local.slots import replica_socket, slot_of
from deploy.backends.local.supervisord import Supervisord
from deploy.errors import CommandError, logged_reason
from deploy.rollout import replica_client
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack

# Seconds that a replica may take from its start to its first answer: resolving, loading and warming up.
_READY_TIMEOUT = 180
# Requests until a slot has its full weight (nginx/upstream-local.conf) among as many others as there are slots.
_INTRODUCTIONS = 300
# Seconds that they may take, on a busy machine.
_INTRODUCING = 20


class Readiness:
    """Of the programs of one stack. The process that uses this class has ``var`` as its working directory."""

    def __init__(self, layout: Layout, supervisord: Supervisord) -> None:
        self._layout = layout
        self._supervisord = supervisord

    def wait_ready(self, *names: str) -> None:
        """Until each of these replicas answers.

        Raises:
            CommandError: one does not, with its reason.
        """
        for name in names:
            self._wait_for_replica(name)

    def _wait_for_replica(self, name: str) -> None:
        socket, first_pid = replica_socket(slot_of(name)), 0
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            if replica_client.ask_socket(socket, "/ready", timeout=2)[0] == 200:
                return
            process = self._supervisord.info().get(name, {})
            first_pid = first_pid or process.get("pid", 0)
            if process.get("statename") in ("BACKOFF", "FATAL", "EXITED") or process.get("pid") != first_pid:
                raise CommandError(f"{name} did not start: {self._reason(name)}")
            time.sleep(0.1)
        raise CommandError(f"{name} was not ready in {_READY_TIMEOUT} s; see make logs")

    def _reason(self, name: str) -> str:
        """Our own last line in a program's log, else its last line."""
        return logged_reason(self._layout.log(name).read_text(errors="replace"))

    def introduce(self, stack: Stack) -> None:
        """Let Nginx meet the new replicas: after a failed try, a slot regains its share of requests one by one."""
        access = replica_client.Access.of(stack, self._layout)
        seen: set[str] = set()
        deadline = time.monotonic() + _INTRODUCING
        asked = 0
        while time.monotonic() < deadline and (asked < _INTRODUCTIONS or len(seen) < stack.replicas):
            seen.add(replica_client.marks(stack.address, access).replica)
            asked += 1

    def wait_for_addresses(self, stack: Stack) -> None:
        """Until Nginx and Locust accept connections.

        Raises:
            CommandError: one does not, with its reason.
        """
        places = {"nginx": f"{stack.address}/null", "locust": f"http://127.0.0.1:{stack.locust_port}/"}
        for name, address in places.items():
            deadline = time.monotonic() + 60
            while not replica_client.listens(address):
                state = self._supervisord.info().get(name, {}).get("statename")
                if time.monotonic() > deadline or state in ("FATAL", "EXITED", "BACKOFF"):
                    raise CommandError(f"{name} did not start: {self._reason(name)}")
                time.sleep(0.1)
