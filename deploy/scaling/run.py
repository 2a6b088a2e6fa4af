"""A run: one topology taken up the ladder, each step measured on both clocks and judged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from deploy.errors import CommandError
from deploy.scaling.calibrate import Null, generator_bound
from deploy.scaling.follow import Follower
from deploy.scaling.generator import Generator, Load
from deploy.scaling.ladder import Ladder
from deploy.scaling.nginxclock import NginxClock
from deploy.scaling.placement import Placement
from deploy.scaling.progress import Progress
from deploy.scaling.records import Window
from deploy.scaling.results import Run
from deploy.scaling.slo import Slo
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from deploy.scaling.usage import Reading, Sampler

# Seconds after a step's end until everybody has told of it: Locust's workers and Nginx's log, once a second each.
_TOLD = 4.0
# Seconds that Locust and its processes may take from their start to the first users.
_START = 60.0
_MISSES, _BOUNDS = 2, 3
# Seconds of an interrupted step that are worth keeping.
_ENOUGH = 5


class Lab(Protocol):
    """What a backend has for a measurement."""

    def log_command(self) -> list[str]:
        """What prints Nginx's access log from now on."""
        ...

    def generator(self, load: Load, ladder: Ladder, folder: Path, placement: Placement) -> Generator:
        """Locust, not yet started."""
        ...

    def reader(self, generator: Generator) -> Callable[[], list[Reading]]:
        """What reads CPU and memory."""
        ...

    def clear(self) -> None:
        """Leave no generator behind."""
        ...


@dataclass(frozen=True, slots=True)
class Climb:
    """How every run of one command is made. ``null`` finds the calibration of so many users."""

    ladder: Ladder
    load: Load
    slo: Slo
    null: Callable[[int], Null | None]
    progress: Progress

    def take(self, run: Run, lab: Lab, folder: Path, placement: Placement, saved: Callable[[], None]) -> None:
        """Measure step after step, until the top or until there is nothing more to learn.

        Raises:
            CommandError: Locust could not start, or ended before its time.
        """
        with placement.beside(), _Instruments(self.load, self.ladder, lab, folder, placement) as instruments:
            for number, users in enumerate(self.ladder.rungs):
                try:
                    step = self._measured(run, number, users, instruments)
                except (KeyboardInterrupt, CommandError) as error:
                    run.ended = str(error) if isinstance(error, CommandError) else f"interrupted at {users} users"
                    if window := instruments.partial(number):
                        seconds = f"interrupted after {window.end - window.start} s"
                        self._keep(run, instruments.step(run.topology.name, users, window), saved, seconds)
                    raise
                self._keep(run, step, saved)
                run.ended = _over(run.steps, self.slo)
                if run.ended:
                    break
        run.done = True

    def _keep(self, run: Run, step: Step, saved: Callable[[], None], note: str = "") -> None:
        step = self._judged(step)
        step = replace(step, reason=", ".join(filter(None, (step.reason, note))))
        run.steps.append(step)
        self.progress.done(step)
        saved()

    def _measured(self, run: Run, number: int, users: int, instruments: _Instruments) -> Step:
        for window in instruments.windows(number):
            if window.whole:
                return instruments.step(run.topology.name, users, window)
            left = self.ladder.seconds - number * self.ladder.step_seconds - window.age
            self.progress.step(users, max(0.0, self.ladder.step_seconds - window.age))
            live = instruments.generator.records.between(window.now - 3, window.now + 1)
            self.progress.live(users, _rate(live), live.latency.quantile(0.95), live.failed, max(0.0, left))
        raise CommandError(f"Locust ended before {users} users were measured; see {instruments.folder}/locust.log")

    def _judged(self, step: Step) -> Step:
        null = self.null(step.users)
        if null:
            step = replace(step, null_p95=null.p95, null_rps=null.rps)
        if bound := generator_bound(step, self.load.mean_wait, null):
            return replace(step, verdict=GENERATOR_BOUND, reason=bound)
        misses = self.slo.misses(step)
        if misses and step.failure_kinds:
            misses.append(f"failed: {step.failure_kinds}")
        return replace(step, verdict=FAIL if misses else PASS, reason=", ".join(misses))


def _rate(live: Window) -> float:
    return live.requests / live.seconds if live.seconds else 0.0


def _over(steps: list[Step], slo: Slo) -> str:
    """Why the ladder need not be climbed further; empty where it goes on.

    A generator that is spoiled by a few milliseconds may do better higher up; one that misses the objective will not.
    """
    last = [step.verdict for step in steps]
    if last[-_MISSES:] == [FAIL] * _MISSES:
        return f"missed the SLO twice in a row, at {steps[-2].users} and {steps[-1].users} users"
    if last[-_BOUNDS:] == [GENERATOR_BOUND] * _BOUNDS and all(slo.misses(step) for step in steps[-_BOUNDS:]):
        return f"the generator was the limit {_BOUNDS} times in a row, up to {steps[-1].users} users"
    return ""


@dataclass(frozen=True, slots=True)
class _View:
    """A step as far as it has come. Seconds; ``start`` and ``end`` are whole Unix seconds, ``end`` not included."""

    start: int
    end: int
    age: float
    now: int
    whole: bool


class _Instruments:
    """What runs beside a run: the generator, Nginx's log and the sampler."""

    def __init__(self, load: Load, ladder: Ladder, lab: Lab, folder: Path, placement: Placement) -> None:
        self._ladder = ladder
        self._lab = lab
        self._clock = NginxClock(load.target)
        self.folder = folder
        self.generator = lab.generator(load, ladder, folder, placement)
        self._sampler = Sampler(lab.reader(self.generator))
        self._stack = ExitStack()

    def __enter__(self) -> _Instruments:
        self._lab.clear()
        with ExitStack() as stack:
            stack.callback(self._lab.clear)
            stack.enter_context(Follower(self._lab.log_command(), self._clock.take))
            stack.enter_context(self.generator)
            stack.enter_context(self._sampler)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def windows(self, number: int) -> Iterator[_View]:
        """The step again and again, until it can be measured as a whole; then once more, and no more.

        Raises:
            CommandError: Locust ended with an error, or did not start.
        """
        deadline = time.monotonic() + _START + (self._ladder.step_seconds if number else 0)
        while True:
            ended = self.generator.ended
            self.generator.check()
            view = self._view(number)
            if view:
                yield view
            elif time.monotonic() > deadline:
                raise CommandError(f"Locust brought no users in {_START:.0f} s; see {self.folder}/locust.log")
            if (view and view.whole) or (ended and not self._lasted(view)):
                return
            time.sleep(0.5)

    def partial(self, number: int) -> _View | None:
        """As much of the step as there was so far, if that is enough to tell percentiles of."""
        view = self._view(number)
        if view is None or view.now - view.start < _ENOUGH:
            return None
        return replace(view, end=min(view.end, view.now + 1))

    def _view(self, number: int) -> _View | None:
        records = self.generator.records
        if number >= len(records.steps):
            return None
        begun = records.steps[number][0]
        start = math.ceil(begun + self._ladder.settle_seconds)
        end = math.floor(begun + self._ladder.step_seconds)
        age = time.time() - begun
        return _View(start, end, age, records.last, age > self._ladder.step_seconds + _TOLD)

    def _lasted(self, view: _View | None) -> bool:
        """Whether the test went on to the end of this step."""
        stopped = self.generator.records.stopped
        return view is not None and stopped is not None and stopped >= view.end

    def step(self, topology: str, users: int, view: _View) -> Step:
        """What both clocks and the sampler say of the window."""
        seen = self.generator.records.between(view.start, view.end)
        nginx = self._clock.between(view.start, view.end)
        usage = self._sampler.between(view.start, view.end)
        seconds = view.end - view.start
        busiest = max((100 * used for used in seen.cpu.values()), default=None)
        return Step(
            topology=topology,
            users=users,
            seconds=seconds,
            requests=seen.requests,
            failures=seen.failed,
            failure_kinds=", ".join(f"{kind} {count}" for kind, count in seen.failures.most_common()),
            rps=round(seen.requests / seconds, 2),
            locust_mean=round(seen.latency.mean, 2),
            locust_p50=seen.latency.quantile(0.5),
            locust_p95=seen.latency.quantile(0.95),
            locust_p99=seen.latency.quantile(0.99),
            nginx_requests=nginx.total,
            nginx_p50=nginx.quantile(0.5),
            nginx_p95=nginx.quantile(0.95),
            nginx_p99=nginx.quantile(0.99),
            cpus=_rounded(usage.cpus),
            cpu_percent=_rounded(usage.cpu_percent),
            memory=usage.memory,
            memory_percent=_rounded(usage.memory_percent),
            nginx_cpus=_rounded(usage.nginx_cpus),
            locust_cpus=_rounded(usage.locust_cpus),
            locust_cpu_percent=_rounded(_nearest(busiest, usage.locust_cpu_percent_of_limit)),
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _nearest(*percent: float | None) -> float | None:
    return max((one for one in percent if one is not None), default=None)
