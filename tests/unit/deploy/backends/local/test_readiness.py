"""Tests of waiting for programs of a fake supervisord, and of the errors for programs that do not start."""

from __future__ import annotations

import pytest

from deploy.backends.local.readiness import Readiness, Timings
from deploy.backends.local.supervisord import Program
from deploy.rollout.replica_client import Access
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from tests.support.fake_supervisord import FakeProbe, FakeSupervisord
from tests.support.refusals import refusal

# Without a pause between checks, a wait is as short as possible.
PATIENT = Timings(5, 5, 5, pause=0)
# For conditions that never hold.
BRIEF = Timings(replica_ready=0.02, registry_ready=0.02, listening=0.02, warmup_timeout=0.3, warmup_requests=3, pause=0)
STACK = Stack(replicas=2, http_port=8080, full=True)
PROGRAMS = ("replica-1", "replica-2", "nginx", "locust", "mlflow")


class SilentProbe(FakeProbe):
    """A probe that gets no answer from any program."""

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, None]:
        return 503, None

    def request_json(self, address: str, target: str) -> tuple[int, None]:
        return 0, None

    def listens(self, address: str) -> bool:
        return False


class RestartingProbe(SilentProbe):
    """A probe during which the replica gets a new process."""

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, None]:
        self._supervisord.restart("replica-1")
        return 0, None


class LateProbe(FakeProbe):
    """A probe that a replica answers at the third request."""

    requests = 0

    def get_json_over_socket(self, path: str, target: str, timeout: float) -> tuple[int, object]:
        self.requests += 1
        return super().get_json_over_socket(path, target, timeout) if self.requests == 3 else (503, None)


@pytest.fixture
def supervisord(layout: Layout) -> FakeSupervisord:
    """A supervisord that knows the programs of a stack and runs none yet."""
    fake = FakeSupervisord(layout)
    fake.start({})
    fake.write([Program(name, ["sleep", "600"], {}, 5) for name in PROGRAMS])
    fake.config_changes()
    return fake


def readiness(
    layout: Layout, supervisord: FakeSupervisord, probe: type[FakeProbe] = FakeProbe, timings: Timings = PATIENT
) -> Readiness:
    return Readiness(layout, supervisord, probe(supervisord), timings)


def test_wait_ends_when_every_replica_is_ready(layout: Layout, supervisord: FakeSupervisord) -> None:
    """The wait ends when each of the replicas has answered."""
    supervisord.add("replica-1", "replica-2")
    supervisord.events.clear()
    readiness(layout, supervisord).wait_ready("replica-1", "replica-2")
    assert supervisord.events == ["ready replica-1", "ready replica-2"]


def test_starting_replica_is_probed_again(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica that is still loading is probed until it is ready."""
    supervisord.add("replica-1")
    probe = LateProbe(supervisord)
    Readiness(layout, supervisord, probe, PATIENT).wait_ready("replica-1")
    assert probe.requests == 3


@pytest.mark.parametrize("state", ["BACKOFF", "EXITED", "FATAL"])
@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("a library's line\nforkcast: the model has no signature\na line after it\n", "the model has no signature"),
        ("Traceback\nValueError: no\n", "ValueError: no"),
        ("", "it printed nothing"),
    ],
)
def test_ended_replica_is_reported_with_its_log(
    layout: Layout, supervisord: FakeSupervisord, state: str, log: str, reason: str
) -> None:
    """A replica that ended is reported with the last error of this project in its log, or else its last line."""
    supervisord.fail("replica-1", log, state)
    supervisord.add("replica-1")
    waiting = readiness(layout, supervisord)
    assert refusal(lambda: waiting.wait_ready("replica-1")) == f"replica-1 did not start: {reason}"


def test_replaced_process_counts_as_ended(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica whose process id changes during the wait has ended and was restarted."""
    supervisord.add("replica-1")
    layout.log("replica-1").write_text("forkcast: no room\n")
    waiting = readiness(layout, supervisord, RestartingProbe)
    assert refusal(lambda: waiting.wait_ready("replica-1")) == "replica-1 did not start: no room"


def test_removed_replica_without_a_log_is_reported(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica that was removed during the wait is reported even without a log."""
    error = refusal(lambda: readiness(layout, supervisord).wait_ready("replica-1"))
    assert error == "replica-1 did not start: it printed nothing"


def test_silent_replica_times_out(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A replica that runs but never becomes ready is reported with the timeout."""
    supervisord.add("replica-1")
    waiting = readiness(layout, supervisord, SilentProbe, BRIEF)
    assert refusal(lambda: waiting.wait_ready("replica-1")) == "replica-1 was not ready in 0.02 s; see make logs"


@pytest.mark.parametrize(("name", "running"), [("nginx", ()), ("locust", ("nginx",))])
def test_ended_nginx_or_locust_is_reported_with_its_log(
    layout: Layout, supervisord: FakeSupervisord, name: str, running: tuple[str, ...]
) -> None:
    """An Nginx or Locust that ended is reported with the last line of its log."""
    supervisord.fail(name, f"{name}: no such file\n")
    supervisord.add(*running, name)
    waiting = readiness(layout, supervisord)
    assert refusal(lambda: waiting.wait_for_addresses(STACK)) == f"{name} did not start: {name}: no such file"


def test_silent_nginx_times_out(layout: Layout, supervisord: FakeSupervisord) -> None:
    """An Nginx that runs but accepts no connection is reported after the timeout."""
    supervisord.add("nginx", "locust")
    layout.log("nginx").write_text("nginx: still trying\n")
    waiting = readiness(layout, supervisord, SilentProbe, BRIEF)
    assert refusal(lambda: waiting.wait_for_addresses(STACK)) == "nginx did not start: nginx: still trying"


def test_nginx_and_locust_are_probed_at_their_addresses(layout: Layout, supervisord: FakeSupervisord) -> None:
    """Nginx and Locust are probed at the addresses of the stack."""
    supervisord.add("nginx", "locust")
    addresses: list[str] = []

    class Recorder(FakeProbe):
        def listens(self, address: str) -> bool:
            addresses.append(address)
            return True

    readiness(layout, supervisord, Recorder).wait_for_addresses(STACK)
    assert addresses == ["http://127.0.0.1:8080/null", "http://127.0.0.1:8089/"]


def test_registry_is_probed_with_a_database_query(layout: Layout, supervisord: FakeSupervisord) -> None:
    """MLflow is probed with a request that needs its database."""
    supervisord.add("mlflow")
    sent: list[tuple[str, str]] = []

    class Recorder(FakeProbe):
        def request_json(self, address: str, target: str) -> tuple[int, None]:
            sent.append((address, target))
            return 200, None

    readiness(layout, supervisord, Recorder).wait_for_registry(STACK)
    assert sent == [("http://127.0.0.1:5000", "/api/2.0/mlflow/registered-models/search?max_results=1")]


@pytest.mark.parametrize("state", ["BACKOFF", "EXITED", "FATAL"])
def test_ended_registry_is_reported_with_its_error(layout: Layout, supervisord: FakeSupervisord, state: str) -> None:
    """A registry that ended is reported with the error of its program, not with a library's later line."""
    supervisord.fail("mlflow", "error: DATABASE_URL: access denied\na library's line\n", state)
    supervisord.add("mlflow")
    waiting = readiness(layout, supervisord)
    assert refusal(lambda: waiting.wait_for_registry(STACK)) == "mlflow did not start: DATABASE_URL: access denied"


def test_silent_registry_times_out(layout: Layout, supervisord: FakeSupervisord) -> None:
    """A registry that runs but does not answer is reported with the command that shows its log."""
    supervisord.add("mlflow")
    waiting = readiness(layout, supervisord, SilentProbe, BRIEF)
    error = refusal(lambda: waiting.wait_for_registry(STACK))
    assert error == "mlflow was not ready in 0.02 s; see make logs S=mlflow"


class CountingProbe(FakeProbe):
    """A probe that counts the warm-up requests through Nginx."""

    requests = 0

    def replica_at(self, address: str, access: Access) -> str:
        assert address == STACK.address
        self.requests += 1
        return super().replica_at(address, access)


@pytest.mark.parametrize(("warmup_requests", "requests"), [(1, 2), (5, 5)])
def test_warm_up_reaches_every_replica(
    layout: Layout, supervisord: FakeSupervisord, warmup_requests: int, requests: int
) -> None:
    """Nginx gets the configured number of requests, and more until every replica has answered one."""
    supervisord.add("replica-1", "replica-2")
    probe = CountingProbe(supervisord)
    Readiness(layout, supervisord, probe, Timings(warmup_requests=warmup_requests)).warm_up_nginx(STACK)
    assert probe.requests == requests


def test_warm_up_ends_at_its_timeout(layout: Layout, supervisord: FakeSupervisord) -> None:
    """The warm-up ends at its timeout if Nginx does not reach a replica."""
    supervisord.add("replica-1")
    probe = CountingProbe(supervisord)
    Readiness(layout, supervisord, probe, BRIEF).warm_up_nginx(STACK)
    assert probe.requests > BRIEF.warmup_requests
