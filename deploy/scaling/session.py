"""One command's measurement: its service, its results, and the runs that fill them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from deploy.errors import CommandError
from deploy.scaling import options
from deploy.scaling.calibrate import Calibration, Null, at_limit, key, rungs_to_calibrate
from deploy.scaling.ladder import Ladder
from deploy.scaling.placement import Placement
from deploy.scaling.progress import Progress
from deploy.scaling.results import Results, Run
from deploy.scaling.run import Climb
from deploy.scaling.service import Service
from deploy.scaling.slo import Slo
from deploy.scaling.step import Step
from deploy.scaling.topology import Topology
from deploy.stack.machine import Machine

# How long `/null` is held for each number of users, and how much of that is thrown away (seconds).
_CALIBRATED, _SETTLED = 10, 4


@dataclass(frozen=True, slots=True)
class Session:
    """What every verb of the lab that measures has."""

    service: Service
    slo: Slo
    progress: Progress
    results: Results

    @classmethod
    def of(cls, verb: str, service: Service, ladder: Ladder, progress: Progress, results: Path | Results) -> Session:
        """With results of its own in a folder, unless it goes on with those of an earlier one.

        Raises:
            CommandError: a setting is wrong.
            OSError: the folder of results cannot be made.
        """
        slo = Slo.from_env(service.environ)
        service.check_users(ladder.users)
        if isinstance(results, Path):
            results = Results.new(results, verb, _conditions(verb, service, ladder, slo))
        return cls(service, slo, progress, results)

    def climb(self, topologies: Sequence[Topology], ladder: Ladder) -> None:
        """Take each up the ladder that was not yet.

        Raises:
            CommandError: a topology did not start, or Locust did not.
        """
        done = {run.topology for run in self.results.runs if run.done}
        self.results.runs = [run for run in self.results.runs if run.done]
        for topology in topologies:
            self.service.check(topology)
        for number, topology in enumerate(topologies, 1):
            if topology in done:
                self.progress.note(f"{topology.name} was measured already")
                continue
            placement = self.service.become(topology)
            self._note(placement.words)
            self.measure(topology, ladder, placement, number, len(topologies))

    def measure(self, topology: Topology, ladder: Ladder, placement: Placement, number: int = 1, total: int = 1) -> Run:
        """One run on the service as it is, of so many; 0 where nobody knows.

        Raises:
            CommandError: Locust did not start, or the service does not answer any more.
        """
        calibration = self._calibration(placement)
        if calibration.missing(ladder.rungs):
            self._calibrate(calibration, ladder, placement)
        self.progress.run(topology.name, number, total)
        run = Run(topology)
        self.results.runs.append(run)
        self.results.save()
        climb = self._climb(ladder, placement, lambda users: calibration.of(users, ladder.users))
        try:
            climb.take(run, self.service.lab, self.results.run_folder(topology), placement, self.results.save)
        except CommandError as error:
            run.ended = str(error)
            raise
        finally:
            self.results.save()
        if run.ended and not self.service.health():
            run.ended += "; the service does not answer any more"
            self.results.save()
        self.progress.ended(topology.name, run.ended)
        return run

    def try_out(self, topology: Topology, ladder: Ladder) -> Step | None:
        """One rung on a topology; None where it does not start.

        Raises:
            CommandError: Locust did not start.
        """
        number = len(self.results.runs) + 1
        try:
            placement = self.service.become(topology)
        except CommandError as error:
            self.results.runs.append(Run(topology, done=True, ended=str(error)))
            self.results.save()
            self.progress.run(topology.name, number, 0)
            self.progress.ended(topology.name, str(error))
            return None
        return self.measure(topology, ladder, placement, number, 0).steps[-1]

    def _climb(self, ladder: Ladder, placement: Placement, null: Callable[[int], Null | None]) -> Climb:
        load = options.load(self.service.environ, placement)
        return Climb(ladder, load, self.slo, null, self.progress)

    def _calibration(self, placement: Placement) -> Calibration:
        load = options.load(self.service.environ, placement)
        machine = Machine.current()
        parts = {
            "on": f"{machine.cpu} x {machine.cores}",
            "CPUs": len(self.service.cpus),
            "backend": self.service.backend,
            "client": load.client,
            "processes": load.processes,
            "on CPU": placement.generator or "any",
            "limit": self.service.environ.get("LOCUST_CPUS") or placement.generator_cpus,
        }
        return Calibration(self.service.layout.var / "calibration.json", key(parts))

    def _calibrate(self, calibration: Calibration, ladder: Ladder, placement: Placement) -> None:
        """As many users against a constant answer, in a shorter ladder."""
        step_users, users = rungs_to_calibrate(ladder.rungs)
        short = Ladder(users, step_users, max(ladder.spawn_rate, step_users // 2), _CALIBRATED, _SETTLED)
        self.progress.run("calibration of the generator", 1, 1)
        climb = self._climb(short, placement, lambda _users: None)
        climb = replace(climb, load=replace(climb.load, target="/null"))
        run = Run(Topology(1, 1, 1))
        try:
            climb.take(run, self.service.lab, self._calibration_folder(), placement, lambda: None)
        finally:
            # The last one of a run that was cut short, and one without an answer, tell nothing of the generator.
            for step in run.steps if run.done else run.steps[:-1]:
                if step.requests > step.failures:
                    calibration.keep(_null(step, climb.load.mean_wait))
        for users in short.rungs[len(run.steps) :]:
            # It ended early, as it could not keep up with fewer.
            calibration.keep(replace(_null(run.steps[-1], climb.load.mean_wait), users=users))

    def _calibration_folder(self) -> Path:
        folder = self.results.folder / "runs" / "calibration"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _note(self, words: str) -> None:
        notes = self.results.conditions.setdefault("notes", [])
        if words not in notes:
            notes.append(words)


def _null(step: Step, mean_wait: float) -> Null:
    return Null(step.users, step.rps, step.locust_p95, at_limit(step, mean_wait))


def _conditions(verb: str, service: Service, ladder: Ladder, slo: Slo) -> Mapping[str, Any]:
    machine = Machine.current()
    model = service.health().get("model") or {}
    return {
        "verb": verb,
        "machine": machine.description,
        "commit": machine.commit,
        "backend": service.backend,
        # Docker Desktop's engine is a virtual machine, which may have fewer CPUs than this one.
        "engine": f"{len(service.cpus)} CPUs" if service.backend == "docker" else "",
        "model": {name: model.get(name) for name in ("name", "version", "engine")},
        "user": service.environ.get("CLIENT") or "light",
        "slo": slo.words,
        "ladder": ladder.words,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "options": options.given(service.environ),
        "notes": [],
    }
