"""The runs of a benchmark: a replica per engine and number of workers, and a row per number of connections."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path

from deploy.bench.accesslog import balance
from deploy.bench.plan import FLOOR_CONNECTIONS, Plan
from deploy.bench.rig import Rig, running_rig
from deploy.bench.subject import Subject
from deploy.bench.table import Row
from deploy.bench.wrk import Answers, Wrk, write_script
from deploy.errors import CommandError

HEALTH, PREDICT = "GET /health", "POST /predict"


@dataclass(frozen=True, slots=True)
class BenchRun:
    """A benchmark: the programs, the plan, the model, and the environment of its replicas."""

    wrk: Wrk
    nginx: str
    plan: Plan
    subject: Subject
    engines: list[str]
    environment: Mapping[str, str]

    @property
    def replicas(self) -> int:
        """The number of replicas, which are started one after another."""
        return len(self.engines) * len(self.plan.workers)

    def measure(self, keep: Callable[[Row], None]) -> None:
        """Call ``keep`` with each row as soon as it is measured.

        Raises:
            CommandError: a program did not start, or ended before the measurement did.
        """
        for engine, workers in product(self.engines, self.plan.workers):
            with self._replica(engine, workers) as (replica_rig, script):
                _Replica(replica_rig, script, self.wrk, self.plan).measure(keep)

    @contextmanager
    def _replica(self, engine: str, workers: int) -> Iterator[tuple[Rig, Path]]:
        with tempfile.TemporaryDirectory(prefix="forkcast-bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            script = write_script(self.subject.write_bodies(folder, self.plan.data), folder)
            environment = {**self.environment, "MODEL_URI": str(self.subject.write_record(folder))}
            with running_rig(self.nginx, environment, folder, engine, workers) as replica_rig:
                yield replica_rig, script


class _Replica:
    """The measurement of one replica."""

    def __init__(self, replica_rig: Rig, script: Path, wrk: Wrk, plan: Plan) -> None:
        self._rig, self._script, self._wrk, self._plan = replica_rig, script, wrk, plan
        self._run_numbers = count(1)

    def measure(self, keep: Callable[[Row], None]) -> None:
        """Measure the floor, GET /health, and then POST /predict from each number of connections."""
        self._wrk.warm_up(f"{self._rig.address}/predict", FLOOR_CONNECTIONS, self._plan.warm_up, self._script)
        floor = self._measure_row(HEALTH, FLOOR_CONNECTIONS)
        keep(floor)
        for connections in self._plan.connections:
            keep(replace(self._measure_row(PREDICT, connections), floor=floor.server_us))

    def _measure_row(self, request: str, connections: int) -> Row:
        rig = self._rig
        # The number distinguishes the requests of this run in the access log.
        target = f"{request.split()[1]}?row={next(self._run_numbers)}"
        script = self._script if request == PREDICT else None
        rig.renew_connections()
        server, nginx = rig.server.cpu_seconds(), rig.nginx.cpu_seconds()
        answers = self._run_clients(target, connections, script)
        server, nginx = rig.server.cpu_seconds() - server, rig.nginx.cpu_seconds() - nginx
        row = Row(rig.engine, rig.workers, request, connections, answers, server, nginx, rig.server.memory())
        # With at most as many connections as workers, the balance says nothing.
        return self._with_balance(row, target) if script and 1 < rig.workers < connections else row

    def _run_clients(self, target: str, connections: int, script: Path | None) -> Answers:
        """Run the clients. If a program ended meanwhile, its error is raised in place of that of the clients."""
        try:
            answers = self._wrk.run(f"{self._rig.address}{target}", connections, self._plan.seconds, script)
        except CommandError:
            self._rig.check()
            raise
        self._rig.check()
        return answers

    def _with_balance(self, row: Row, target: str) -> Row:
        counts = self._rig.log.count_answers(target, row.answers.successful)
        return replace(row, answered=dict(counts), balance=balance(counts, row.workers))
