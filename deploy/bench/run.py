"""The runs: each engine and number of workers is a replica, and in it each number of connections is a row."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path

from deploy.bench.accesslog import balance
from deploy.bench.plan import FLOOR_CONNECTIONS, Plan
from deploy.bench.rig import Rig, rig
from deploy.bench.subject import Subject
from deploy.bench.table import Row
from deploy.bench.wrk import Answers, Wrk, write_script
from deploy.errors import CommandError

HEALTH, PREDICT = "GET /health", "POST /predict"


@dataclass(frozen=True, slots=True)
class BenchRun:
    """All that a run needs: the programs, the model, and the environment of the replicas."""

    wrk: Wrk
    nginx: str
    plan: Plan
    subject: Subject
    engines: list[str]
    environment: Mapping[str, str]

    @property
    def replicas(self) -> int:
        """How many will be started, one after another."""
        return len(self.engines) * len(self.plan.workers)

    def measure(self, keep: Callable[[Row], None]) -> None:
        """Hand each row on as soon as it is measured.

        Raises:
            CommandError: something did not start, or ended before its time.
        """
        for engine, workers in product(self.engines, self.plan.workers):
            with self._replica(engine, workers) as (one, script):
                _Replica(one, script, self.wrk, self.plan).measure(keep)

    @contextmanager
    def _replica(self, engine: str, workers: int) -> Iterator[tuple[Rig, Path]]:
        with tempfile.TemporaryDirectory(prefix="forkcast-bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            script = write_script(self.subject.write_bodies(folder, self.plan.data), folder)
            environment = {**self.environment, "MODEL_URI": str(self.subject.write_record(folder))}
            with rig(self.nginx, environment, folder, engine, workers) as one:
                yield one, script


class _Replica:
    """The rows of one replica."""

    def __init__(self, one: Rig, script: Path, wrk: Wrk, plan: Plan) -> None:
        self._rig, self._script, self._wrk, self._plan = one, script, wrk, plan
        self._numbers = count(1)

    def measure(self, keep: Callable[[Row], None]) -> None:
        """The floor first, which the others are compared with."""
        self._wrk.warm_up(f"{self._rig.address}/predict", FLOOR_CONNECTIONS, self._plan.warm_up, self._script)
        floor = self._row(HEALTH, FLOOR_CONNECTIONS)
        keep(floor)
        for connections in self._plan.connections:
            keep(replace(self._row(PREDICT, connections), floor=floor.server_us))

    def _row(self, request: str, connections: int) -> Row:
        one = self._rig
        # The number tells the requests of this run from all others in the access log.
        target = f"{request.split()[1]}?row={next(self._numbers)}"
        script = self._script if request == PREDICT else None
        one.renew_connections()
        server, nginx = one.server.cpu_seconds(), one.nginx.cpu_seconds()
        answers = self._asked(target, connections, script)
        server, nginx = one.server.cpu_seconds() - server, one.nginx.cpu_seconds() - nginx
        row = Row(one.engine, one.workers, request, connections, answers, server, nginx, one.server.memory())
        # Fewer connections than workers cannot be spread over them.
        return self._with_balance(row, target) if script and 1 < one.workers < connections else row

    def _asked(self, target: str, connections: int, script: Path | None) -> Answers:
        """One run of the clients; if a program ended in it, that is the reason to tell, whatever the clients say."""
        try:
            answers = self._wrk.run(f"{self._rig.address}{target}", connections, self._plan.seconds, script)
        except CommandError:
            self._rig.check()
            raise
        self._rig.check()
        return answers

    def _with_balance(self, row: Row, target: str) -> Row:
        answered = self._rig.log.answered(target, row.answers.good)
        return replace(row, answered=dict(answered), balance=balance(answered, row.workers))
