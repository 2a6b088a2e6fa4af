"""Waiting for programs of a fake supervisord, and what is told of those that do not come up."""

from __future__ import annotations

import pytest

from deploy.backends.local.readiness import Readiness, Timings
from deploy.backends.local.supervisord import Program
from deploy.rollout.replica_client import Access
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from tests.support.fake_supervisord import FakeProbe, FakeSupervisord
from tests.support.refusals import refusal

# No pause: a wait takes as long as what is waited for.
UNHURRIED = Timings(5, 5, 5, pause=0)
# For what never comes.
BRIEF = Timings(replica_ready=0.02, registry_ready=0.02, listening=0.02, warmup_timeout=0.3, warmup_requests=3, pause=0)
STACK = Stack(replicas=2, http_port=8080, full=True)
PROGRAMS = ("replica-1", "replica-2", "nginx", "locust", "mlflow")


class SilentProbe(FakeProbe):
    """Nobody answers."""

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, None]:
        return 503, None

    def request_json(self, address: str, target: str) -> tuple[int, None]:
        return 0, None

    def listens(self, address: str) -> bool:
        return False


class RestartingProbe(SilentProbe):
    """Each question is followed by a new process of the replica."""

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, None]:
        self._supervisord.restart("replica-1")
        return 0, None


class LateProbe(FakeProbe):
    """A replica answers at its third question."""

    questions = 0

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, object]:
        self.questions += 1
        return super().get_json_over_socket(path, target, timeout) if self.questions == 3 else (503, None)


@pytest.fixture
def supervisord(layout: Layout) -> FakeSupervisord:
    """One that knows of the programs of a stack, and runs none yet."""
    fake = FakeSupervisord(layout)
    fake.start({})
    fake.write([Program(name, ["sleep", "600"], {}, 5) for name in PROGRAMS])
    fake.config_changes()
    return fake


def readiness(
    layout: Layout, supervisord: FakeSupervisord, probe: type[FakeProbe] = FakeProbe, timings: Timings = UNHURRIED
) -> Readiness:
    return Readiness(layout, supervisord, probe(supervisord), timings)


def test_ready_replicas_are_asked_one_after_another(layout: Layout, supervisord: FakeSupervisord) -> None:
    """The wait ends when each of the replicas has answered."""
    supervisord.add("replica-1", "replica-2")
    supervisord.events.clear()
    readiness(layout, supervisord).wait_ready("replica-1", "replica-2")
    assert supervisord.events == ["ready replica-1", "ready replica-2"]


def test_starting_replica_is_waited_for(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica that is still loading is asked again."""
    supervisord.add("replica-1")
    probe = LateProbe(supervisord)
    Readiness(layout, supervisord, probe, UNHURRIED).wait_ready("replica-1")
    assert probe.questions == 3


@pytest.mark.parametrize("state", ["BACKOFF", "EXITED", "FATAL"])
@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("a library's line\nforkcast: the model has no signature\na line after it\n", "the model has no signature"),
        ("Traceback\nValueError: no\n", "ValueError: no"),
        ("", "it printed nothing"),
    ],
)
def test_ended_replica_is_told_with_its_log(
    layout: Layout, supervisord: FakeSupervisord, state: str, log: str, why: str
) -> None:
    """A replica that has ended is not waited for: its own last line is the reason, else its log's last line."""
    supervisord.fail("replica-1", log, state)
    supervisord.add("replica-1")
    waiting = readiness(layout, supervisord)
    assert refusal(lambda: waiting.wait_ready("replica-1")) == f"replica-1 did not start: {why}"


def test_replaced_process_is_told_as_an_end(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica whose process is another one than at first has ended meanwhile, and was started again."""
    supervisord.add("replica-1")
    layout.log("replica-1").write_text("forkcast: no room\n")
    waiting = readiness(layout, supervisord, RestartingProbe)
    assert refusal(lambda: waiting.wait_ready("replica-1")) == "replica-1 did not start: no room"


def test_unknown_replica_is_told_though_it_has_no_log(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica that somebody removed meanwhile is told, though it never printed anything."""
    told = refusal(lambda: readiness(layout, supervisord).wait_ready("replica-1"))
    assert told == "replica-1 did not start: it printed nothing"


def test_silent_replica_is_given_up(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica that runs and is never ready is told after its time, which is part of the message."""
    supervisord.add("replica-1")
    waiting = readiness(layout, supervisord, SilentProbe, BRIEF)
    assert refusal(lambda: waiting.wait_ready("replica-1")) == "replica-1 was not ready in 0.02 s; see make logs"


@pytest.mark.parametrize(("name", "first"), [("nginx", ()), ("locust", ("nginx",))])
def test_program_that_does_not_listen_is_told(
    layout: Layout, supervisord: FakeSupervisord, name: str, first: tuple[str, ...]
) -> None:
    """Nginx, and then Locust, is told with its log's last line as soon as it has ended."""
    supervisord.fail(name, f"{name}: no such file\n")
    supervisord.add(*first, name)
    waiting = readiness(layout, supervisord)
    assert refusal(lambda: waiting.wait_for_addresses(STACK)) == f"{name} did not start: {name}: no such file"


def test_silent_nginx_is_given_up(layout: Layout, supervisord: FakeSupervisord) -> None:
    """An Nginx that runs and accepts no connection is told after its time."""
    supervisord.add("nginx", "locust")
    layout.log("nginx").write_text("nginx: still trying\n")
    waiting = readiness(layout, supervisord, SilentProbe, BRIEF)
    assert refusal(lambda: waiting.wait_for_addresses(STACK)) == "nginx did not start: nginx: still trying"


def test_listening_programs_end_the_wait(layout: Layout, supervisord: FakeSupervisord) -> None:
    """Nginx and Locust are asked where the stack listens."""
    supervisord.add("nginx", "locust")
    asked: list[str] = []

    class Recorder(FakeProbe):
        def listens(self, address: str) -> bool:
            asked.append(address)
            return True

    readiness(layout, supervisord, Recorder).wait_for_addresses(STACK)
    assert asked == ["http://127.0.0.1:8080/null", "http://127.0.0.1:8089/"]


def test_registry_that_answers_ends_the_wait(layout: Layout, supervisord: FakeSupervisord) -> None:
    """MLflow is asked a question that its database answers."""
    supervisord.add("mlflow")
    asked: list[tuple[str, str]] = []

    class Recorder(FakeProbe):
        def request_json(self, address: str, target: str) -> tuple[int, None]:
            asked.append((address, target))
            return 200, None

    readiness(layout, supervisord, Recorder).wait_for_registry(STACK)
    assert asked == [("http://127.0.0.1:5000", "/api/2.0/mlflow/registered-models/search?max_results=1")]


@pytest.mark.parametrize("state", ["BACKOFF", "EXITED", "FATAL"])
def test_ended_registry_is_told_with_its_own_line(layout: Layout, supervisord: FakeSupervisord, state: str) -> None:
    """The reason of a registry that has ended is our program's own line, before what a library printed."""
    supervisord.fail("mlflow", "error: DATABASE_URL: access denied\na library's line\n", state)
    supervisord.add("mlflow")
    waiting = readiness(layout, supervisord)
    assert refusal(lambda: waiting.wait_for_registry(STACK)) == "mlflow did not start: DATABASE_URL: access denied"


def test_silent_registry_is_given_up(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A registry that runs and does not answer is told after its time, with the command that shows its log."""
    supervisord.add("mlflow")
    waiting = readiness(layout, supervisord, SilentProbe, BRIEF)
    told = refusal(lambda: waiting.wait_for_registry(STACK))
    assert told == "mlflow was not ready in 0.02 s; see make logs S=mlflow"


class CountingProbe(FakeProbe):
    """Counts the requests that Nginx is introduced to new replicas by."""

    requests = 0

    def replica_at(self, address: str, access: Access) -> str:
        assert address == STACK.address
        self.requests += 1
        return super().replica_at(address, access)


@pytest.mark.parametrize(("introductions", "requests"), [(1, 2), (5, 5)])
def test_introduction_reaches_every_replica(
    layout: Layout, supervisord: FakeSupervisord, introductions: int, requests: int
) -> None:
    """Nginx is sent the number of requests that it needs, and more until every replica has answered one."""
    supervisord.add("replica-1", "replica-2")
    probe = CountingProbe(supervisord)
    Readiness(layout, supervisord, probe, Timings(warmup_requests=introductions)).warm_up_nginx(STACK)
    assert probe.requests == requests


def test_introduction_ends_though_a_replica_is_never_met(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica that Nginx does not reach is no reason to ask for ever."""
    supervisord.add("replica-1")
    probe = CountingProbe(supervisord)
    Readiness(layout, supervisord, probe, BRIEF).warm_up_nginx(STACK)
    assert probe.requests > BRIEF.warmup_requests
