"""What the scaling lab reads: a line of JSON for each step and each second, on standard output."""

from __future__ import annotations

import json
import os
import socket
import time
from math import inf
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import runners
from locust.runners import MasterRunner, WorkerRunner

from seconds import Book, Meter, Second

# Locust's own 3 s would hold every second back for as long.
runners.WORKER_REPORT_INTERVAL = 1.0


def record(environment: Any) -> None:
    """Begin to record in this process, if --record asks for it; a worker learns that with its first test."""
    if not environment.parsed_options.record or hasattr(environment, "recorder"):
        return
    name = f"{socket.gethostname()}/{os.getpid()}"
    if isinstance(environment.runner, WorkerRunner):
        environment.recorder = _Reporter(environment, Meter(name))
    else:
        is_master = isinstance(environment.runner, MasterRunner)
        environment.recorder = Recorder(environment, Meter("master" if is_master else name))


class _Reporter:
    """In a worker: tells the master with each of Locust's own reports."""

    def __init__(self, environment: Any, meter: Meter) -> None:
        self._meter = meter
        environment.events.request.add_listener(meter.count)
        environment.events.report_to_master.add_listener(self._report)

    def _report(self, data: dict[str, Any], **_kwargs: object) -> None:
        data["recorded"] = self._meter.take()


class Recorder:
    """In the master, or the only process: merges and prints."""

    def __init__(self, environment: Any, meter: Meter) -> None:
        self._environment = environment
        self._meter = meter
        self._book = Book()
        self._users: dict[int, int] = {}
        self._started = False
        events = environment.events
        events.request.add_listener(meter.count)
        events.worker_report.add_listener(self._add)
        events.spawning_complete.add_listener(lambda user_count, **_: self._say("full", users=user_count))
        events.test_stop.add_listener(self._stop)
        events.quit.add_listener(self._finish)
        environment.shape_class.on_step = self._step
        gevent.spawn(self._print_seconds)

    def _step(self, users: int) -> None:
        self._started = True
        self._say("step", users=users)

    def _stop(self, **_kwargs: object) -> None:
        # Locust tells it of a test that was refused, too.
        if self._started:
            self._say("stop")

    def _add(self, client_id: str, data: dict[str, Any], **_kwargs: object) -> None:
        if "recorded" in data:
            self._book.add(client_id, data["recorded"])

    def _print_seconds(self) -> None:
        while True:
            gevent.sleep(1 - time.time() % 1)
            self._users[int(time.time()) - 1] = self._environment.runner.user_count
            self._book.add("", self._meter.take())
            for number, second in self._book.take(["", *self._workers()]):
                self._print(number, second)

    def _finish(self, **_kwargs: object) -> None:
        """At the end of the process: the workers have sent what they had."""
        self._book.add("", self._meter.take())
        for number, second in self._book.take_before(inf):
            self._print(number, second)

    def _workers(self) -> list[str]:
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            return []
        return [worker.id for worker in runner.clients.all if worker.state != runners.STATE_MISSING]

    def _print(self, number: int, second: Second) -> None:
        self._say("second", time=number, users=self._users.get(number, 0), **second)

    def _say(self, kind: str, **more: object) -> None:
        print(json.dumps({"kind": kind, "time": time.time(), **more}), flush=True)
