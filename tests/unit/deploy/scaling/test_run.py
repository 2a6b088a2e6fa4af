"""Tests of taking a topology up a ladder, with programs that print prepared lines."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.scaling import run as run_module
from deploy.scaling.calibrate import Null
from deploy.scaling.generator import Generator, Load
from deploy.scaling.ladder import Ladder
from deploy.scaling.nginxclock import NginxClock
from deploy.scaling.placement import Placement
from deploy.scaling.progress import Progress
from deploy.scaling.results import Run
from deploy.scaling.run import Climb
from deploy.scaling.slo import Slo
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS
from deploy.scaling.topology import Topology
from deploy.scaling.usage import Reading
from tests.support.waiting import is_gone

pytestmark = pytest.mark.e2e

# Long ago, so that every step is over when it is reported. Steps here last 5 s, of which the first is discarded.
BEGUN = int(time.time()) - 1000 + 0.25
STEP, SETTLE, EVERY = 5, 1, 6
END = b"end of the log\n"


@dataclass
class Rung:
    """The measurements of both clocks at a step: latencies (ms) of all requests, and failures per second."""

    locust: float = 5
    nginx: float = 4
    failures: dict[str, int] = field(default_factory=dict)
    cpu: float = 0.2


GOOD, SLOW, STARVED, LATE = Rung(), Rung(2000, 2000), Rung(2000, 4), Rung(12, 4)


def users_at(number: int) -> int:
    """Return the number of users at a step: two more at each."""
    return 2 * (number + 1)


def generator_lines(rungs: list[Rung]) -> list[str]:
    """Return Locust's lines for these steps, each step's seconds before the step itself."""
    lines: list[dict[str, Any]] = []
    for number, rung in enumerate(rungs):
        begun, users = BEGUN + EVERY * number, users_at(number)
        for second in range(int(begun), int(begun) + EVERY):
            lines.append({
                "kind": "second", "time": second, "users": users, "requests": users, "failures": rung.failures,
                "latency": {str(rung.locust): users}, "cpu": {"host/1": rung.cpu, "host/2": rung.cpu / 2},
            })  # fmt: skip
        lines.append({"kind": "step", "time": begun, "users": users})
    return [json.dumps(line) for line in lines]


def nginx_line(second: int, ms: float) -> str:
    """Return a line of Nginx's log."""
    at = datetime.fromtimestamp(second, UTC).isoformat()
    return (
        f'{{"time":"{at}","client":"10.0.0.1","method":"POST","uri":"/predict","status":200,"bytes":81,'
        f'"request_time":{ms / 1000:.3f},"upstream_response_time":"0.001","upstream_addr":"a","upstream_status":"200",'
        '"served_by":"a/1"}'
    )


def nginx_lines(rungs: list[Rung]) -> list[str]:
    """Return the lines of Nginx's log for these steps."""
    return [
        nginx_line(second, rung.nginx)
        for number, rung in enumerate(rungs)
        for second in range(int(BEGUN) + EVERY * number, int(BEGUN) + EVERY * (number + 1))
        for _ in range(users_at(number))
    ]


def readings(*replicas: float, limit: float = 1.0) -> list[Reading]:
    """Return readings, one per second, of replicas with this CPU usage each, and of Nginx and Locust."""
    all_readings = []
    for second in range(60):
        at = int(BEGUN) + second
        for number, cpus in enumerate(replicas):
            all_readings.append(Reading(f"server-{number}", "server", at, cpus * second, 100 << 20, limit, 200 << 20))
        all_readings.append(Reading("nginx", "nginx", at, 0.1 * second, 1 << 20))
        all_readings.append(Reading("locust", "locust", at, 0.3 * second, 1 << 20, 1.0))
    return all_readings


PROGRAM = """
import pathlib, signal, sys, time
signal.alarm(60)
lines, go, end = sys.argv[1:]
while go and not pathlib.Path(go).exists():
    time.sleep(0.02)
print(pathlib.Path(lines).read_text(), flush=True)
sys.exit(end or 0) if end != "stay" else time.sleep(60)
"""


class FakeLab:
    """A backend whose Locust and Nginx are programs that print lines; Locust starts after everything else was read."""

    def __init__(self, folder: Path, locust: list[str], nginx: list[str], read: list[Reading], end: str) -> None:
        self._folder, self._read, self._end = folder, read, end
        (folder / "locust.txt").write_text("\n".join(locust) + "\n")
        (folder / "nginx.txt").write_text("\n".join(nginx) + "\n" + END.decode())
        self.log_is_told = threading.Event()
        self.cleared = self._reads = 0
        self.made: list[Generator] = []

    def log_command(self) -> list[str]:
        """Return a command that prints the log, as Nginx's does."""
        return [sys.executable, "-c", PROGRAM, str(self._folder / "nginx.txt"), "", "stay"]

    def generator(self, load: Load, ladder: Ladder, folder: Path, placement: Placement) -> Generator:
        """Return a generator that has not started."""
        assert (load, placement) == (Load(), Placement())
        command = [sys.executable, "-c", PROGRAM, str(self._folder / "locust.txt"), str(self._folder / "go"), self._end]
        self.made.append(Generator(command, folder / "locust.log", subprocess.Popen.terminate, os.environ))
        return self.made[-1]

    def reader(self, generator: Generator) -> Callable[[], list[Reading]]:
        """Return a reader that gives all readings at once and then lets Locust start."""
        assert generator is self.made[-1]
        return self._next

    def clear(self) -> None:
        """Remove everything that the run started."""
        self.cleared += 1

    def _next(self) -> list[Reading]:
        self._reads += 1
        if self._reads == 1:
            return self._read
        self.log_is_told.wait(60)
        (self._folder / "go").touch()
        return []


@dataclass
class Outcome:
    """A run together with everything that was reported about it."""

    run: Run
    lab: FakeLab
    stream: io.StringIO
    saves: list[int]
    error: BaseException | None = None


Taken = Callable[..., Outcome]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Taken:
    """A function that runs up a ladder of ``count`` steps, of which the given ones were reached."""

    def run_ladder(
        *rungs: Rung,
        top: int | None = None,
        slo: Slo | None = None,
        null: Callable[[int], Null | None] | None = None,
        read: list[Reading] | None = None,
        end: str = "stay",
        saved: Callable[[], None] | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        reached = list(rungs)
        more = readings(0.2, 0.5) if read is None else read
        lab = FakeLab(tmp_path, generator_lines(reached), nginx_lines(reached), more, end)

        class Log(NginxClock):
            """A log reader that signals when it has read all lines."""

            def take(self, line: bytes) -> None:
                super().take(line)
                if line == END:
                    lab.log_is_told.set()

        monkeypatch.setattr(run_module, "NginxClock", Log)
        outcome = Outcome(Run(Topology.parse("2x1/200M:1")), lab, io.StringIO(), [])

        def save() -> None:
            outcome.saves.append(len(outcome.run.steps))
            if saved:
                saved()

        ladder = Ladder(2 * (top or len(reached)), 2, 2, STEP, SETTLE)
        climb = Climb(ladder, Load(), slo or Slo(), null or (lambda _: None), progress or Progress(outcome.stream))
        try:
            climb.take(outcome.run, lab, tmp_path, Placement(), save)
        except (CommandError, KeyboardInterrupt) as error:
            outcome.error = error
        assert lab.cleared == 2  # before the start, since an earlier run may have been killed, and at the end
        assert all(is_gone(generator.pid) for generator in lab.made)
        return outcome

    return run_ladder


def verdicts(outcome: Outcome) -> list[str]:
    """Return the verdicts of all steps."""
    return [step.verdict for step in outcome.run.steps]


def test_steps_record_both_clocks_and_the_sampler(take: Taken) -> None:
    """Each step has the figures of both clocks and the sampler for its complete seconds after settling."""
    outcome = take(GOOD, Rung(12, 11, {"timeout": 1}))
    first, second = outcome.run.steps
    assert (outcome.run.done, outcome.run.ended, outcome.error) == (True, "", None)
    assert (first.topology, first.users, first.seconds) == ("2x1/200M:1", 2, 3)
    assert (first.requests, first.failures, first.rps, first.failure_kinds) == (6, 0, 2, "")
    assert (first.locust_mean, first.locust_p50, first.locust_p95, first.locust_p99) == (5, 5, 5, 5)
    assert (first.nginx_requests, first.nginx_p50, first.nginx_p95, first.nginx_p99) == (6, 4, 4, 4)
    assert (first.cpus, first.cpu_percent) == (0.7, 50)
    assert (first.memory, first.memory_percent) == (200 << 20, 50)
    assert (first.nginx_cpus, first.locust_cpus, first.locust_cpu_percent) == (0.1, 0.3, 30)
    assert (first.null_p95, first.null_rps, first.verdict, first.reason) == (None, None, PASS, "")
    assert (second.users, second.requests, second.failures, second.failure_kinds) == (4, 12, 3, "timeout 3")
    assert (second.verdict, second.reason) == (FAIL, "failures 25 %, failed: timeout 3")
    assert outcome.saves == [1, 2]
    lines = outcome.stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["2", "4"]
    assert lines[0].endswith(": pass")


def test_two_consecutive_misses_end_the_run(take: Taken) -> None:
    """Two consecutive steps that miss the SLO end the run; a passed step between them prevents this."""
    outcome = take(SLOW, GOOD, SLOW, SLOW, top=9)
    assert verdicts(outcome) == [FAIL, PASS, FAIL, FAIL]
    assert outcome.run.ended == "missed the SLO twice in a row, at 6 and 8 users"
    assert outcome.run.done


def test_third_generator_bound_miss_ends_the_run(take: Taken) -> None:
    """Three consecutive generator-bound steps that miss the SLO end the run, and two do not."""
    outcome = take(STARVED, STARVED, GOOD, STARVED, STARVED, STARVED, top=9)
    assert verdicts(outcome) == [GENERATOR_BOUND] * 2 + [PASS] + [GENERATOR_BOUND] * 3
    assert outcome.run.ended == "the generator was the limit 3 times in a row, up to 12 users"
    assert outcome.run.steps[0].reason.startswith("P95 is ")
    assert outcome.run.done


def test_small_clock_difference_does_not_end_the_run(take: Taken) -> None:
    """Steps on which the clocks differ by less than the SLO do not end the run."""
    outcome = take(LATE, LATE, LATE, LATE, top=4)
    assert verdicts(outcome) == [GENERATOR_BOUND] * 4
    assert outcome.run.ended == ""


def test_miss_between_generator_bound_steps_restarts_the_count(take: Taken) -> None:
    """A miss between generator-bound steps, and the reverse, restarts the count of consecutive steps."""
    outcome = take(SLOW, STARVED, SLOW, STARVED)
    assert verdicts(outcome) == [FAIL, GENERATOR_BOUND, FAIL, GENERATOR_BOUND]
    assert (outcome.run.done, outcome.run.ended) == (True, "")


def test_generator_bound_step_misses_no_objective(take: Taken) -> None:
    """A generator-bound step misses no objective, whatever its figures."""
    outcome = take(Rung(5000, 4, {"timeout": 2}))
    assert verdicts(outcome) == [GENERATOR_BOUND]


def test_busiest_generator_process_decides(take: Taken) -> None:
    """The busiest process of the generator decides if it is nearer to its limit than all processes together."""
    (step,) = take(Rung(cpu=0.95)).run.steps
    assert (step.locust_cpu_percent, step.verdict) == (95, GENERATOR_BOUND)


def test_most_loaded_replica_decides(take: Taken) -> None:
    """The replica nearest to its limit decides."""
    (step,) = take(GOOD, read=readings(0.2, 0.95)).run.steps
    assert (step.cpu_percent, step.verdict, step.reason) == (95, FAIL, "CPU 95 %")


def test_missing_readings_leave_usage_unknown(take: Taken) -> None:
    """Without readings, CPU and memory are unknown, and other figures are not affected."""
    (step,) = take(GOOD, read=[]).run.steps
    assert (step.cpus, step.cpu_percent, step.memory, step.nginx_cpus, step.locust_cpus) == (None,) * 5
    assert (step.locust_cpu_percent, step.verdict) == (20, PASS)


def test_each_step_is_compared_with_its_calibration(take: Taken) -> None:
    """Each step is compared with the calibration of the same number of users."""
    requested_users: list[int] = []

    def null(users: int) -> Null | None:
        requested_users.append(users)
        return Null(users, 4.0, 700.0, "it was slow") if users == 4 else None

    outcome = take(GOOD, GOOD, null=null)
    assert requested_users == [2, 4]
    assert [(step.null_p95, step.null_rps) for step in outcome.run.steps] == [(None, None), (700, 4)]
    assert verdicts(outcome) == [PASS, GENERATOR_BOUND]


def test_user_defined_slo_decides_the_verdict(take: Taken) -> None:
    """The user's objective decides the verdict."""
    outcome = take(GOOD, GOOD, top=5, slo=Slo(p95_ms=5))
    assert verdicts(outcome) == [FAIL, FAIL]
    assert outcome.run.steps[0].reason == "P95 5 ms"


def test_interrupt_while_saving_keeps_each_step_once(take: Taken) -> None:
    """After an interrupt while saving, each measured step is saved once, and the run is not done."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    outcome = take(GOOD, GOOD, saved=interrupt)
    assert isinstance(outcome.error, KeyboardInterrupt)
    assert [step.users for step in outcome.run.steps] == [2]
    assert not outcome.run.done


class Interrupting(Progress):
    """A progress display that interrupts the run on its first update."""

    def live(self, users: int, rps: float, p95_ms: float, failures: int, seconds_left_total: float | None) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("reported_seconds", "kept"), [(20, 1), (3, 0)])
def test_interrupted_step_is_kept_with_enough_requests(
    take: Taken, monkeypatch: pytest.MonkeyPatch, reported_seconds: int, kept: int
) -> None:
    """An interrupted step is kept if its requests are enough for percentiles."""
    monkeypatch.setattr("tests.unit.deploy.scaling.test_run.BEGUN", int(time.time()) - reported_seconds + 0.25)
    monkeypatch.setattr("tests.unit.deploy.scaling.test_run.EVERY", reported_seconds)
    monkeypatch.setattr("tests.unit.deploy.scaling.test_run.STEP", 300)
    outcome = take(GOOD, top=2, progress=Interrupting(io.StringIO()))
    assert isinstance(outcome.error, KeyboardInterrupt)
    assert [(step.seconds in {17, 18}, step.requests / step.seconds) for step in outcome.run.steps] == [
        (True, 2)
    ] * kept
    assert outcome.saves == [1] * kept
    assert (outcome.run.ended, outcome.run.done) == ("interrupted at 2 users", False)


def test_early_locust_end_keeps_earlier_steps(take: Taken) -> None:
    """If Locust ends before the maximum, the steps so far are kept, and the reason says where it ended."""
    outcome = take(GOOD, top=3, end="")
    assert isinstance(outcome.error, CommandError)
    assert "Locust ended before 4 users were measured; see " in str(outcome.error)
    assert str(outcome.error).endswith("/locust.log")
    assert (verdicts(outcome), outcome.saves, outcome.run.done) == ([PASS], [1], False)


def test_failed_locust_is_reported_by_its_last_line(take: Taken) -> None:
    """A Locust that ends with an error is reported with its last line."""
    outcome = take(end="127.0.0.1:1 takes no connection: refused", top=1)
    assert str(outcome.error) == "Locust ended: 127.0.0.1:1 takes no connection: refused"
    assert (outcome.run.steps, outcome.run.done) == ([], False)


def test_generator_without_users_times_out(take: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that starts no users times out."""
    monkeypatch.setattr(run_module, "_START", 2.0)
    outcome = take(top=1)
    assert str(outcome.error).startswith("Locust brought no users in 2 s; see ")


def test_unreadable_nginx_log_starts_nothing(take: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Nginx's log cannot be followed, nothing is started and nothing remains."""
    monkeypatch.setattr(FakeLab, "log_command", lambda _: ["no-such-program-anywhere"])
    with pytest.raises(FileNotFoundError):
        take(GOOD)


@pytest.mark.parametrize("begun", [0.0, 0.25, 0.999])
def test_shortest_step_is_measured(begun: float, take: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest allowed step is measured, whenever in a second it begins."""
    monkeypatch.setattr("tests.unit.deploy.scaling.test_run.BEGUN", int(BEGUN) + begun)
    monkeypatch.setattr("tests.unit.deploy.scaling.test_run.STEP", 3)
    outcome = take(GOOD)
    assert outcome.error is None
    (step,) = outcome.run.steps
    assert step.seconds >= 1
    assert step.requests == 2 * step.seconds


LIVE = """
import json, sys, time
begun = time.time()
print(json.dumps({"kind": "step", "time": begun, "users": 2}), flush=True)
for second in range(int(begun) + 1, int(begun) + 12):
    time.sleep(max(0, second + 1.1 - time.time()))
    seen = {"users": 2, "requests": 4, "failures": {}, "latency": {"5": 4}, "cpu": {}}
    print(json.dumps({"kind": "second", "time": second, **seen}), flush=True)
"""
LIVE_LOG = """
import sys, time
for second in range(int(time.time()), int(time.time()) + 20):
    time.sleep(max(0, second + 0.5 - time.time()))
    at = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(second))
    for _ in range(4):
        print(sys.argv[1].replace("TIME", at), flush=True)
"""


def test_steps_are_reported_live_and_when_complete(tmp_path: Path) -> None:
    """A step is reported live while it runs, and measured once all sources have covered it."""
    shown: list[tuple[int, int]] = []

    class Shown(Progress):
        """A progress display that keeps the live updates."""

        def live(self, users: int, rps: float, p95_ms: float, failures: int, seconds_left_total: float | None) -> None:
            shown.append((users, round(rps)))
            super().live(users, rps, p95_ms, failures, seconds_left_total)

    line = nginx_line(0, 4).replace("1970-01-01T00:00:00+00:00", "TIME")

    class Live(FakeLab):
        """A lab whose programs report each second after it has passed."""

        def log_command(self) -> list[str]:
            return [sys.executable, "-c", LIVE_LOG, line]

        def generator(self, load: Load, ladder: Ladder, folder: Path, placement: Placement) -> Generator:
            del load, ladder, placement
            command = [sys.executable, "-c", LIVE]
            return Generator(command, folder / "locust.log", subprocess.Popen.terminate, os.environ)

        def reader(self, generator: Generator) -> Callable[[], list[Reading]]:
            del generator
            return list

    lab = Live(tmp_path, [], [], [], "stay")
    run = Run(Topology.parse("1x1:1"))
    climb = Climb(Ladder(2, 2, 2, 3, 1), Load(), Slo(), lambda _: None, Shown(io.StringIO()))
    climb.take(run, lab, tmp_path, Placement(), lambda: None)
    (step,) = run.steps
    assert step.seconds in {1, 2}
    assert (step.users, step.rps, step.requests) == (2, 4, 4 * step.seconds)
    assert step.nginx_requests == step.requests
    assert (step.locust_p95, step.nginx_p95, step.verdict) == (5, 4, PASS)
    assert (2, 4) in shown
    assert run.done
