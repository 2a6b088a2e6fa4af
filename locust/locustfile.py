"""The users of the service: each posts a row, waits 1 to 2.5 s, and posts the next.

Run by `make up` with its UI, or by hand: `locust -f locust/locustfile.py --host http://127.0.0.1`. With workers, each
process prepares its own rows.
"""

from __future__ import annotations

import gc
import signal
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import events, runners
from locust.runners import MasterRunner, WorkerRunner

from failures import CannotStartError
from limits import raise_limit
from options import add_options
from recorder import record
from refusal import refuse
from shapes import Steps
from users import BatchUser, FastUser, LightUser
from workload import Workload

# What Locust looks for in this file.
__all__ = ["BatchUser", "FastUser", "LightUser", "Steps"]

# The message by which a worker tells that it cannot take part.
_CANNOT_START = "cannot-start"


def stand_ready(environment: Any, **_kwargs: object) -> None:
    """Hear the workers, record from the first step on, and end in order at a signal.

    Locust hears SIGTERM only once a test with a shape is over, and then forgets the HTML report; a Ctrl-C may end the
    greenlet that happens to run.
    """
    if isinstance(environment.runner, WorkerRunner):
        return
    environment.runner.register_message(_CANNOT_START, _end)
    record(environment)
    if environment.web_ui is None:
        main = gevent.getcurrent()
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, gevent.kill, main, KeyboardInterrupt)


def prepare(environment: Any, **_kwargs: object) -> None:
    """Make this process's requests, before its first user."""
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        return
    record(environment)
    try:
        LightUser.work = BatchUser.work = FastUser.work = Workload.prepare(environment.host, environment.parsed_options)
    except CannotStartError as error:
        runner.send_message(_CANNOT_START, str(error))


def _end(environment: Any, msg: Any, **_kwargs: object) -> None:
    """A worker cannot take part: the first of them says why, and ends the test for all."""
    if environment.process_exit_code is None:
        refuse(environment, msg.data)
        # Not from here: this greenlet is one of those that are stopped, and would end before the rest.
        gevent.spawn(environment.runner.quit if environment.web_ui is None else environment.runner.stop)


# A master that is back does not know its workers: each ends then, and is started again. Locust's own is 60 s.
runners.MASTER_HEARTBEAT_TIMEOUT = 15
raise_limit()
# Python's thorough collections go through every object of 10,000 users, and hold all of them up meanwhile: at 5,700
# requests/s the P95 against a constant answer was 35 ms with them, and 2 ms without. Young objects are collected still.
gc.set_threshold(10_000, 20, 1_000_000)
events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(stand_ready)
events.test_start.add_listener(prepare)
