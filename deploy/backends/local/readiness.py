"""Waiting until started programs are ready, and the reason if one is not."""

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

# The states of supervisord in which a program has ended by itself.
_ENDED_STATES = ("BACKOFF", "EXITED", "FATAL")
# A request to MLflow that succeeds only with a working database.
_SEARCH_MODELS = "/api/2.0/mlflow/registered-models/search?max_results=1"


@dataclass(frozen=True, slots=True)
class Timings:
    """Timeouts of the local backend; times are in seconds."""

    # From the start of a replica until it is ready: resolving, loading and warming up the model.
    replica_ready: float = 180
    registry_ready: float = 180
    # From the start of Nginx and Locust until they accept connections.
    listening: float = 60
    # For the warm-up requests, on a busy machine.
    warmup_timeout: float = 20
    # The number of requests until a new replica gets its full share (nginx/upstream-local.conf), with every slot used.
    warmup_requests: int = 300
    # Between two checks.
    pause: float = 0.1


class Probe:
    """Checks whether programs answer. Tests pass a fake one."""

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, Any]:
        """Send GET to the replica at a socket; return the status (0 for no answer) and the JSON document."""
        return replica_client.get_json_over_socket(path, target, timeout)

    def request_json(self, address: str, target: str) -> tuple[int, Any]:
        """Send GET to a server; return the status (0 for no answer) and the JSON document."""
        return replica_client.request_json(address, "GET", target)

    def listens(self, address: str) -> bool:
        """Return whether a server accepts connections at this address."""
        return replica_client.listens(address)

    def replica_at(self, address: str, access: replica_client.Access) -> str:
        """Send a request through Nginx; return the name of the replica that answered, or an empty text."""
        return replica_client.identify(address, access).replica


class Readiness:
    """Waits for the programs of one stack. The working directory of the process must be ``var``."""

    def __init__(
        self, layout: Layout, supervisord: Supervisord, probe: Probe | None = None, timings: Timings | None = None
    ) -> None:
        self._layout = layout
        self._supervisord = supervisord
        self._probe = probe or Probe()
        self._timings = timings or Timings()

    def wait_ready(self, *names: str) -> None:
        """Wait until each of these replicas is ready.

        Raises:
            CommandError: a replica is not ready in time or ended, with the reason.
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
            if process.get("statename") in _ENDED_STATES or process.get("pid") != first_pid:
                raise self._start_error(name)
            time.sleep(self._timings.pause)
        raise CommandError(f"{name} was not ready in {self._timings.replica_ready} s; see make logs")

    def wait_for_registry(self, stack: Stack) -> None:
        """Wait until the stack's own MLflow answers.

        Raises:
            CommandError: MLflow does not answer in time or ended, with the reason.
        """
        seconds = self._timings.registry_ready
        if not self._wait_until(MLFLOW, seconds, partial(self._registry_answers, mlflow_address(stack))):
            raise CommandError(f"{MLFLOW} was not ready in {seconds} s; see make logs S={MLFLOW}")

    def _registry_answers(self, address: str) -> bool:
        return self._probe.request_json(address, _SEARCH_MODELS)[0] == 200

    def wait_for_addresses(self, stack: Stack) -> None:
        """Wait until Nginx and Locust accept connections.

        Raises:
            CommandError: one of them does not in time, or ended, with the reason.
        """
        addresses = {"nginx": f"{stack.address}/null", "locust": f"http://127.0.0.1:{stack.locust_port}/"}
        for name, address in addresses.items():
            if not self._wait_until(name, self._timings.listening, partial(self._probe.listens, address)):
                raise self._start_error(name)

    def _wait_until(self, name: str, seconds: float, condition: Callable[[], bool]) -> bool:
        """Wait until a condition on a program holds; return whether it did in time.

        Raises:
            CommandError: the program ended, with the reason.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            if self._supervisord.info().get(name, {}).get("statename") in _ENDED_STATES:
                raise self._start_error(name)
            time.sleep(self._timings.pause)
        return True

    def warm_up_nginx(self, stack: Stack) -> None:
        """Send requests through Nginx until new replicas get their full share of the load.

        Nginx gave their slots no requests while these failed, and raises their weight by one with each request.
        """
        access = replica_client.Access.of(stack, self._layout)
        answered: set[str] = set()
        deadline = time.monotonic() + self._timings.warmup_timeout
        requests = 0
        while time.monotonic() < deadline and (
            requests < self._timings.warmup_requests or len(answered) < stack.replicas
        ):
            answered |= {self._probe.replica_at(stack.address, access)} - {""}
            requests += 1

    def _start_error(self, name: str) -> CommandError:
        """Return an error with the last error of this project in a program's log, else with the log's last line."""
        try:
            text = self._layout.log(name).read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        prefix = "error: " if name == MLFLOW else "forkcast: "
        return CommandError(f"{name} did not start: {logged_reason(text, prefix)}")
