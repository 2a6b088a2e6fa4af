"""How many users there are: all at once, or a ladder of steps."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import Any, ClassVar

from locust import LoadTestShape, User
from locust.runners import STATE_RUNNING, MasterRunner

from failures import CannotStartError
from limits import check_limit
from options import check_options
from refusal import refuse
from users import CLASSES
from workload import Workload

Tick = tuple[int, float, list[type[User]]]


class Steps(LoadTestShape):
    """Up to --users by --step-users at a time, each step held --step-seconds from when all of its users run.

    Without steps, --users until --run-time is over. A shape also says which class of users there are, so that an option
    can choose it, in the UI too.
    """

    use_common_options: ClassVar[bool] = True
    # Told the users of a step before the first of them is spawned.
    on_step: Callable[[int], None] | None = None

    # Locust's own, whose type is too wide here.
    runner: Any

    def reset_time(self) -> None:
        """Begin anew. Locust's master calls this twice: before the first tick and after it."""
        self._began = monotonic()
        self._step = 1
        self._full_since: float | None = None

    def tick(self) -> Tick | None:
        """Users, spawn rate and classes from now on, once a second; None ends the test."""
        options = self._options
        before = self.runner.shape_last_tick
        if before is None:
            if not self._can_start():
                return None
            # Not to be changed under way: each process prepared its requests for one client.
            self._classes = [CLASSES[options.client]]
        if options.run_time and monotonic() - self._began >= options.run_time:
            return None
        if options.step_users and self._held(options.step_seconds):
            if self._users == options.num_users:
                return None
            self._step += 1
            self._full_since = None
        if self.on_step is not None and (before is None or before[0] != self._users):
            self.on_step(self._users)
        return self._users, options.spawn_rate, self._classes

    @property
    def _options(self) -> Namespace:
        options: Namespace = self.runner.environment.parsed_options
        return options

    @property
    def _users(self) -> int:
        options = self._options
        users: int = options.num_users
        return min(self._step * options.step_users, users) if options.step_users else users

    def _held(self, seconds: float) -> bool:
        if self.runner.state != STATE_RUNNING:
            return False
        if self._full_since is None:
            self._full_since = monotonic()
        return monotonic() - self._full_since >= seconds

    def _can_start(self) -> bool:
        """Look at everything that a test needs, here alone, so that one line is told however many workers there are."""
        runner = self.runner
        try:
            check_options(self._options)
            workers = runner.worker_count if isinstance(runner, MasterRunner) else 1
            check_limit(ceil(self._options.num_users / max(workers, 1)))
            Workload.prepare(runner.environment.host or "", self._options)
        except CannotStartError as error:
            refuse(runner.environment, str(error))
            return False
        return True
