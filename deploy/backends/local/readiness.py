"""Waiting for what supervisord started, and the reason where it does not come up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from deploy.backends.local.slots import replica_socket, slot_of
from deploy.backends.local.supervisord import Supervisord
from deploy.errors import CommandError, logged_reason
from deploy.rollout import replica_client
from deploy.stack.paths import Layout
from deploy.stack.registry_services import MLFLOW, mlflow_address
from deploy.stack.specification import Stack

# The states in which supervisord has seen a program end by itself.
_ENDED = ("BACKOFF", "EXITED", "FATAL")
# A request to MLflow that its database answers.
_REGISTERED_MODELS = "/api/2.0/mlflow/registered-models/search?max_results=1"


@dataclass(frozen=True, slots=True)
class Timings:
    """How long programs may take, in seconds."""

    # From a replica's start to its first answer: resolving, loading and warming up.
    replica_ready: float = 180
    registry_ready: float = 180
    # Until Nginx and Locust accept connections.
    listening: float = 60
    # The most that the introductions may take, on a busy machine.
    introduction: float = 20
    # Requests until a slot has its full weight (nginx/upstream-local.conf) among as many others as there are slots.
    introductions: int = 300
    # Between two looks.
    pause: float = 0.1


class Probe:
    """Asks programs whether they answer. Tests hand in another."""

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, Any]:
        """Return the status and the document of the replica that listens on a Unix socket; status 0 for none."""
        return replica_client.get_json_over_socket(path, target, timeout)

    def request_json(self, address: str, target: str) -> tuple[int, Any]:
        """Return the status and the document of a server at an address; status 0 for none."""
        return replica_client.request_json(address, "GET", target)

    def listens(self, address: str) -> bool:
        """Return whether a connection is accepted there."""
        return replica_client.listens(address)

    def replica_at(self, address: str, access: replica_client.Access) -> str:
        """Return the name of the replica that answered a request through Nginx; empty where none did."""
        return replica_client.identify(address, access).replica


class Readiness:
    """Of the programs of one stack. The process that uses this class has ``var`` as its working directory."""

    def __init__(
        self, layout: Layout, supervisord: Supervisord, probe: Probe | None = None, timings: Timings | None = None
    ) -> None:
        self._layout = layout
        self._supervisord = supervisord
        self._probe = probe or Probe()
        self._timings = timings or Timings()

    def wait_ready(self, *names: str) -> None:
        """Until each of these replicas answers.

        Raises:
            CommandError: one does not, with its reason.
        """
        for name in names:
            self._wait_for_replica(name)

    def _wait_for_replica(self, name: str) -> None:
        socket, first_pid = replica_socket(slot_of(name)), 0
        deadline = time.monotonic() + self._timings.replica_ready
        while time.monotonic() < deadline:
            if self._probe.get_json_over_socket(socket, "/ready", 2)[0] == 200:
                return
            process = self._supervisord.info().get(name, {})
            first_pid = first_pid or process.get("pid", 0)
            if process.get("statename") in _ENDED or process.get("pid") != first_pid:
                raise self._did_not_start(name)
            time.sleep(self._timings.pause)
        raise CommandError(f"{name} was not ready in {self._timings.replica_ready} s; see make logs")

    def wait_for_registry(self, stack: Stack) -> None:
        """Until the stack's own MLflow answers.

        Raises:
            CommandError: it does not, with its reason.
        """
        seconds = self._timings.registry_ready
        if not self._until(MLFLOW, seconds, partial(self._registry_answers, mlflow_address(stack))):
            raise CommandError(f"{MLFLOW} was not ready in {seconds} s; see make logs S={MLFLOW}")

    def _registry_answers(self, address: str) -> bool:
        return self._probe.request_json(address, _REGISTERED_MODELS)[0] == 200

    def wait_for_addresses(self, stack: Stack) -> None:
        """Until Nginx and Locust accept connections.

        Raises:
            CommandError: one does not, with its reason.
        """
        places = {"nginx": f"{stack.address}/null", "locust": f"http://127.0.0.1:{stack.locust_port}/"}
        for name, address in places.items():
            if not self._until(name, self._timings.listening, partial(self._probe.listens, address)):
                raise self._did_not_start(name)

    def _until(self, name: str, seconds: float, holds: Callable[[], bool]) -> bool:
        """Wait until a program does something; return whether it did in time.

        Raises:
            CommandError: it has ended, with its reason.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            if self._supervisord.info().get(name, {}).get("statename") in _ENDED:
                raise self._did_not_start(name)
            time.sleep(self._timings.pause)
        return True

    def introduce(self, stack: Stack) -> None:
        """Let Nginx meet the new replicas: after a failed try, a slot regains its share of requests one by one."""
        access = replica_client.Access.of(stack, self._layout)
        seen: set[str] = set()
        deadline = time.monotonic() + self._timings.introduction
        asked = 0
        while time.monotonic() < deadline and (asked < self._timings.introductions or len(seen) < stack.replicas):
            seen |= {self._probe.replica_at(stack.address, access)} - {""}
            asked += 1

    def _did_not_start(self, name: str) -> CommandError:
        """Return the error with our own last line in a program's log, else its last line."""
        try:
            text = self._layout.log(name).read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        prefix = "error: " if name == MLFLOW else "forkcast: "
        return CommandError(f"{name} did not start: {logged_reason(text, prefix)}")
