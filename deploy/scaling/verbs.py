"""The verbs of the lab: what each measures, and what is told at its end."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from deploy.errors import CommandError
from deploy.scaling import options, plan
from deploy.scaling.ladder import MOST_USERS, Ladder, number
from deploy.scaling.placement import Placement
from deploy.scaling.progress import Progress
from deploy.scaling.report import summary, write_report
from deploy.scaling.results import Results
from deploy.scaling.search import CPU_GRAIN, Search
from deploy.scaling.service import Service
from deploy.scaling.session import Session
from deploy.scaling.topology import Topology
from deploy.scaling.tracking import document
from deploy.stack.interrupt import ignore
from deploy.stack.lock import locked
from deploy.stack.paths import Layout, parse_path

# How the folders of the lab and of the benches are called, and the lock of whatever measures.
_OURS = re.compile(r"\d{8}-\d{6}-[a-z-]+(-\d+)?")
_LAB = "lab"


class Lab:
    """One method a verb; `make help` prints the docstring's first line and how the verb is called."""

    def __init__(self, layout: Layout, environ: Mapping[str, str]) -> None:
        self._layout = layout
        self._environ = environ
        self._results = parse_path("RESULTS_DIR", environ.get("RESULTS_DIR") or "results")

    def load(self) -> None:
        """Test the stack that is up with a number of users at once.

        make load [PROFILE=quick|medium|load|stress] [USERS=] [SPAWN_RATE=] [RUN_TIME=5m]
        """
        ladder = Ladder.profile(self._environ)
        options.check(self._environ)
        self._measure("load", ladder)

    def max_users(self) -> None:
        """Find the most users that the stack that is up holds, or that each of TOPOLOGIES does.

        make max-users [TOPOLOGIES=] [USERS=10000]
        """
        if self._environ.get("TOPOLOGIES"):
            self._compare("max-users")
            return
        ladder = Ladder.from_env(self._environ)
        options.check(self._environ)
        self._measure("max-users", ladder)

    def compare(self) -> None:
        """Compare one replica with many, of equal CPU and memory in all.

        make compare [CPUS=1] [MEMORY=1G] [WORKERS="1 2 4"] [TOPOLOGIES="1x1/1G:2 .."] [USERS=10000] [RESUME=results/..]
        """
        self._compare("compare")

    def _measure(self, verb: str, ladder: Ladder) -> None:
        """Take the stack as it is; it may be scaled meanwhile, but not by another measurement."""
        with locked(self._layout, _LAB):
            service = Service.running(self._layout, self._environ)
            with Progress() as progress, self._reported(self._session(verb, service, ladder, progress)) as session:
                session.measure(service.topology, ladder, Placement())

    def _compare(self, verb: str) -> None:
        resumed = self._resumed()
        environ = self._environ | resumed.conditions["options"] if resumed else self._environ
        ladder = Ladder.from_env(environ)
        options.check(environ)
        with (
            locked(self._layout, _LAB),
            locked(self._layout),
            Service.taken(self._layout, environ) as service,
        ):
            wanted = _possible(service, options.topologies(environ, len(service.cpus), limits=_limits(service)))
            with Progress() as progress:
                session = Session.of(verb, service, ladder, progress, resumed or self._results)
                with self._reported(session), _resumable(session):
                    session.climb(wanted, ladder)

    def min_resources(self) -> None:
        """Search the least CPU, then memory, that holds a number of users.

        make min-resources USERS=2000
        """
        options.check(self._environ)
        users = number(self._environ, "USERS", Ladder().users, MOST_USERS)
        plain = Ladder.from_env({name: value for name, value in self._environ.items() if name != "STEP_USERS"})
        ladder = Ladder.hold(users, plain.spawn_rate, plain.step_seconds, plain.settle_seconds)
        replicas = number(self._environ, "N", 1, 16)
        with (
            locked(self._layout, _LAB),
            locked(self._layout),
            Service.taken(self._layout, self._environ) as service,
        ):
            limits = _limits(service)
            most = options.topologies({**self._environ, "WORKERS": "1"}, len(service.cpus), limits=limits)[0]
            most = Topology(replicas, max(1, int(-(-most.cpus // 1))), most.cpus, most.memory)
            service.check(most)
            with (
                Progress() as progress,
                self._reported(self._session("min-resources", service, ladder, progress)) as one,
            ):
                search = Search(lambda topology: one.try_out(topology, ladder), CPU_GRAIN if limits else 1)
                answer = search.least(most)
                held = f"{users} users are held by {answer.topology.name}" if answer.topology else f"{users} users"
                one.results.conditions["answer"] = f"{held}: {answer.words}"
                one.results.save()

    def plan(self) -> None:
        """Project replicas and CPUs for a number of users from what was measured.

        make plan USERS=1000000
        """
        users = number(self._environ, "USERS", 0, 10**9)
        if not users:
            raise CommandError("USERS is missing: make plan USERS=1000000")
        print("\n".join(plan.projection(self._measured(), users).lines()))

    def report(self) -> None:
        """Write the report of the newest results, or of RESULTS, again.

        make report [RESULTS=results/..]
        """
        chosen = self._environ.get("RESULTS")
        results = Results.load(parse_path("RESULTS", chosen)) if chosen else self._measured()[-1]
        print("\n".join(summary(results)))
        print(f"report: {write_report(results)}")

    def clean_results(self) -> None:
        """Delete what the lab and the benches measured."""
        ours = [path for path in self._results.glob("*/") if _OURS.fullmatch(path.name)]
        for path in ours:
            shutil.rmtree(path)
        with suppress(OSError):  # something else is there, or nothing ever was
            self._results.rmdir()
        print(f"deleted {len(ours)} results in {self._results}")

    def _session(self, verb: str, service: Service, ladder: Ladder, progress: Progress) -> Session:
        return Session.of(verb, service, ladder, progress, self._results)

    def _measured(self) -> list[Results]:
        """All results in which something was measured, the newest last.

        Raises:
            CommandError: there are none, or some cannot be read.
        """
        folders = sorted(path.parent for path in self._results.glob("*/lab.json"))
        found = [results for results in map(Results.load, folders) if results.steps]
        if not found:
            raise CommandError(f"there is nothing in {self._results} yet: make compare")
        return found

    def _resumed(self) -> Results | None:
        """What RESUME names, to go on with it."""
        folder = self._environ.get("RESUME")
        return Results.load(parse_path("RESUME", folder)) if folder else None

    @contextmanager
    def _reported(self, session: Session) -> Iterator[Session]:
        """Report what there is at the end, however it comes: then nothing interrupts what is left to do."""
        try:
            yield session
        finally:
            ignore()
            self._report(session)

    def _report(self, session: Session) -> None:
        results = session.results
        if not results.steps:
            if not any(log.stat().st_size for log in results.folder.glob("runs/*/locust.log")):
                shutil.rmtree(results.folder, ignore_errors=True)
            return
        try:
            print("\n".join(["", *summary(results)]), flush=True)
            print(f"report: {write_report(results)}", flush=True)
            session.service.record(json.dumps(document(results)))
        except (CommandError, OSError) as error:
            session.progress.note(f"not all of the report was kept: {error}")


@contextmanager
def _resumable(session: Session) -> Iterator[None]:
    """Say how to go on with what was cut short."""
    try:
        yield
    except (KeyboardInterrupt, CommandError):
        if session.results.steps:
            session.progress.note(f"to measure the rest: make compare RESUME={session.results.folder}")
        raise


def _limits(service: Service) -> bool:
    """Whether replicas can be held to parts of a CPU, and to memory."""
    return service.backend == "docker"


def _possible(service: Service, wanted: list[Topology]) -> list[Topology]:
    """All of them.

    Raises:
        CommandError: one that the backend cannot be.
    """
    for topology in wanted:
        service.check(topology)
    return wanted


VERBS: Mapping[str, Callable[[Lab], None]] = {
    name.replace("_", "-"): method
    for name, method in vars(Lab).items()
    if not name.startswith("_") and callable(method)
}
