"""Tests of promotion, with replicas and a registrar in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.rollout import promotion, replica_client
from deploy.rollout.promotion import Version, promote, wait_for_version
from tests.support.refusals import refusal

M = 1 << 20
GRACEFUL_TIMEOUT = 30.0


def version(number: int) -> Version:
    return Version("hills", str(number), str(number) * 64)


OLD, NEW = version(1), version(2)


def health_of(version: Version, reloads: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the `/health` document of a replica with one worker."""
    model = {"name": version.name, "version": version.number, "digest": version.digest}
    return {"model": model, "reloads": reloads, "workers": 1, "memory": {"used": None, "limit": None}} | changes


@dataclass
class Registrar:
    """A registrar that records its calls. ``wanted`` is where its alias points, ``fails`` names the steps that fail."""

    events: list[str]
    wanted: Version = OLD
    candidate: Version = NEW
    fails: tuple[str, ...] = ()
    weight: Mapping[str, int] = field(default_factory=lambda: {"needs": 0, "model": 0, "worker": 0})
    checks: list[tuple[str | None, str | None, bool]] = field(default_factory=list)
    served_version: str | None = None

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        self._step("check")
        self.checks.append((version, served, force))
        candidate = self.candidate
        copy = {"name": candidate.name, "version": candidate.number, "digest": candidate.digest}
        return {"copy": copy, "weight": self.weight}

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        self._step("accept")
        previous, self.wanted = self.wanted, self.candidate
        assert candidate["copy"]["version"] == self.candidate.number
        self.served_version = candidate["served_version"]
        return {"version": previous}

    def undo(self, previous: Mapping[str, Any]) -> None:
        self._step("undo")
        self.wanted = previous["version"]

    def _step(self, name: str) -> None:
        self.events.append(name)
        if name in self.fails:
            raise CommandError(f"{name} failed")


@dataclass
class Replica:
    """A replica that loads the version of the registrar's alias when it reloads, unless ``on_reload`` is set.

    The first health after a reload comes from an old worker, the second from a new one.
    """

    name: str
    registrar: Registrar
    served: Version = OLD
    reloads: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    ended: str | None = None
    answers: bool = True
    on_reload: Callable[[Replica], None] | None = None
    _pending: list[int] = field(default_factory=list)

    def runs_code(self, _digest: str) -> bool:
        return True

    def health(self) -> Mapping[str, Any]:
        if not self.answers:
            return {}
        if self._pending:
            self._pending.pop()
            return health_of(OLD, self.reloads - 1)
        return health_of(self.served, self.reloads, **self.extra)

    def send_sighup(self) -> None:
        self.registrar.events.append(f"reload {self.name}")
        if self.on_reload:
            self.on_reload(self)
        else:
            self.load()

    def load(self) -> None:
        self.served = self.registrar.wanted
        self.reloads += 1
        self._pending = [1]

    def failure(self) -> str | None:
        return self.ended


def test_version_of_a_replica_has_the_registered_name() -> None:
    """A version is compared by its registered name, whatever clients call the model; old images report one name."""
    model = {"name": "iris", "version": "1", "digest": OLD.digest}
    assert Version.of({"model": model | {"registered_name": "hills"}}) == OLD
    assert Version.of({"model": model | {"registered_name": None}}) == Version("iris", "1", OLD.digest)
    assert Version.of({"model": model}) == Version("iris", "1", OLD.digest)
    assert Version.of({}) is None


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock by one that advances a second with each reading and does not sleep."""
    seconds = itertools.count()
    fake_time = SimpleNamespace(monotonic=lambda: float(next(seconds)), sleep=lambda _seconds: None)
    monkeypatch.setattr(promotion, "time", fake_time)


@pytest.fixture
def registrar() -> Registrar:
    return Registrar([])


@pytest.fixture
def replicas(registrar: Registrar) -> list[Replica]:
    return [Replica(f"replica-{slot}", registrar) for slot in (1, 2, 3)]


def run(replicas: list[Replica], registrar: Registrar, wanted: str | None = "2", *, force: bool = False) -> Version:
    return promote(replicas, registrar, wanted, force=force, graceful_timeout=GRACEFUL_TIMEOUT)


def refused_promotion(replicas: list[Replica], registrar: Registrar) -> str:
    """Return why a promotion is refused or undone."""
    return refusal(lambda: run(replicas, registrar))


def test_replicas_reload_in_order_after_the_check(replicas: list[Replica], registrar: Registrar) -> None:
    """The candidate is checked, then accepted, and then the replicas reload in order."""
    assert run(replicas, registrar) == NEW
    assert registrar.events == ["check", "accept", "reload replica-1", "reload replica-2", "reload replica-3"]
    assert [(replica.served, replica.reloads) for replica in replicas] == [(NEW, 1)] * 3


def test_registry_records_the_version_that_replicas_served(replicas: list[Replica], registrar: Registrar) -> None:
    """The version that replicas served, whatever the alias named, is the one that a rollback returns to."""
    run(replicas, registrar)
    assert registrar.served_version == OLD.number


@pytest.mark.parametrize("served", [Version("iris-model", "1", "d"), Version(NEW.name, "309645d21a32", "d")])
def test_served_model_without_a_version_of_this_name_is_not_recorded(
    replicas: list[Replica], registrar: Registrar, served: Version
) -> None:
    """If replicas served another model, or a folder, there is no version of this model to return to."""
    for replica in replicas:
        replica.served = served
    run(replicas, registrar)
    assert registrar.served_version is None


def test_replica_reloads_after_the_previous_one_serves(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica is told to reload only once the replica before it serves the new version."""

    def reload(replica: Replica) -> None:
        served.append([replica.served.number for replica in replicas])
        replica.load()

    served: list[list[str]] = []
    for replica in replicas:
        replica.on_reload = reload
    run(replicas, registrar)
    assert served == [["1", "1", "1"], ["2", "1", "1"], ["2", "2", "1"]]


@pytest.mark.parametrize(("wanted", "force"), [("2", False), (None, False), ("2", True)])
def test_registrar_receives_version_digest_and_force(
    replicas: list[Replica], registrar: Registrar, wanted: str | None, force: bool
) -> None:
    """The registrar is asked for the version (None: the previous one), with the served digest and the force flag."""
    run(replicas, registrar, wanted, force=force)
    assert registrar.checks == [(wanted, OLD.digest, force)]


def test_promotion_without_replicas_moves_the_alias(registrar: Registrar) -> None:
    """The alias moves without replicas, for those that start later."""
    assert run([], registrar) == NEW
    assert registrar.checks == [("2", None, False)]
    assert registrar.events == ["check", "accept"]


def test_replicas_with_the_version_are_not_reloaded(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that serves the version already is not reloaded."""
    replicas[1].served = NEW
    run(replicas, registrar)
    assert registrar.events == ["check", "accept", "reload replica-1", "reload replica-3"]
    assert replicas[1].reloads == 0


def test_promoting_the_served_version_reloads_nothing(replicas: list[Replica], registrar: Registrar) -> None:
    """Promoting the version that every replica serves succeeds without a reload."""
    run(replicas, registrar)
    registrar.events.clear()
    assert run(replicas, registrar) == NEW
    assert registrar.events == ["check", "accept"]


def test_version_with_the_same_files_is_reloaded(replicas: list[Replica], registrar: Registrar) -> None:
    """Replicas reload to another version of the same files, since answers name the version."""
    registrar.candidate = Version("hills", "2", OLD.digest)
    run(replicas, registrar)
    assert [replica.served.number for replica in replicas] == ["2", "2", "2"]


def test_refused_candidate_changes_nothing(replicas: list[Replica], registrar: Registrar) -> None:
    """A version that the registrar refuses reloads no replica, and the reason is reported."""
    registrar.fails = ("check",)
    assert refused_promotion(replicas, registrar) == "check failed"
    assert registrar.events == ["check"]


def test_failed_accept_reloads_no_replica(replicas: list[Replica], registrar: Registrar) -> None:
    """No replica reloads if the registry's alias cannot be moved."""
    registrar.fails = ("accept",)
    assert refused_promotion(replicas, registrar) == "accept failed"
    assert registrar.events == ["check", "accept"]


@pytest.mark.parametrize("silent", [0, 2])
def test_unresponsive_replica_stops_promotion_early(replicas: list[Replica], registrar: Registrar, silent: int) -> None:
    """A replica that does not answer is named before the version is checked."""
    replicas[silent].answers = False
    error = refused_promotion(replicas, registrar)
    assert error == f"replica-{silent + 1} does not answer: see make logs, or start it again with make up"
    assert registrar.events == []


def test_insufficient_memory_refuses_promotion(replicas: list[Replica], registrar: Registrar) -> None:
    """A reload that needs more than the memory limit is refused, with the sizes, before anything changes."""
    registrar.weight = {"needs": 300 * M, "model": 100 * M, "worker": 20 * M}
    replicas[2].extra = {"workers": 2, "memory": {"used": 200 * M, "limit": 256 * M}}
    assert refused_promotion(replicas, registrar) == (
        "hills version 2 may not be promoted: not enough memory to reload replica-3: 200M of 256M in use, and 140M "
        "more are needed while both models are loaded; expected a memory limit of at least 374M"
    )
    assert registrar.events == ["check"]


@pytest.mark.parametrize(
    "memory", [{"used": 136 * M, "limit": 256 * M}, {"used": None, "limit": M}, {"used": 200 * M, "limit": None}]
)
def test_sufficient_or_unknown_memory_allows_promotion(
    replicas: list[Replica], registrar: Registrar, memory: dict[str, int | None]
) -> None:
    """A reload that fits exactly, or whose memory or limit is unknown, is allowed."""
    registrar.weight = {"needs": 300 * M, "model": 100 * M, "worker": 20 * M}
    replicas[0].extra = {"memory": memory}
    assert run(replicas, registrar) == NEW


def test_memory_is_checked_only_where_a_reload_is_needed(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that serves the version already needs no memory for it."""
    registrar.weight = {"needs": 300 * M, "model": 100 * M, "worker": 20 * M}
    replicas[0].served = NEW
    replicas[0].extra = {"memory": {"used": 200 * M, "limit": 256 * M}}
    assert run(replicas, registrar) == NEW


def refuse_model(replica: Replica) -> None:
    replica.reloads += 1
    replica.extra = {"refused": "a compiled form that does not load"}


def end(replica: Replica) -> None:
    replica.answers, replica.ended = False, "its master has ended; see make logs"


def load_another_version(replica: Replica) -> None:
    replica.reloads += 1
    replica.served = version(3)


def ignore_the_signal(_replica: Replica) -> None:
    pass


RESTORED = "the previous version is served again"
NOT_RESTORED = "not everything was restored (replica-2 does not serve hills version 1)"
FAILURES = [
    (refuse_model, RESTORED, "a compiled form that does not load"),
    (end, NOT_RESTORED, "its master has ended; see make logs"),
    (load_another_version, NOT_RESTORED, "it loaded another version"),
    (ignore_the_signal, RESTORED, "did not reload within 210 s; see make logs"),
]


@pytest.mark.parametrize(("on_reload", "outcome", "reason"), FAILURES)
def test_failed_reload_restores_alias_and_replicas(
    replicas: list[Replica], registrar: Registrar, on_reload: Callable[[Replica], None], outcome: str, reason: str
) -> None:
    """A failed reload restores the alias and every reloaded replica; a replica that stays different is named."""
    replicas[1].on_reload = on_reload
    error = refused_promotion(replicas, registrar)
    assert error.startswith(f"hills version 2 was not promoted, and {outcome}: replica-2")
    assert error.endswith(reason)
    assert registrar.wanted == OLD
    assert replicas[0].served == OLD
    assert replicas[0].reloads == 2
    assert replicas[2].reloads == 0
    assert registrar.events[:5] == ["check", "accept", "reload replica-1", "reload replica-2", "undo"]
    assert "reload replica-3" not in registrar.events


def test_replica_that_refuses_is_not_reloaded_again(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that refused the new model serves the previous one without a second reload."""
    replicas[1].on_reload = refuse_model
    refused_promotion(replicas, registrar)
    assert registrar.events.count("reload replica-2") == 1


def test_replica_that_loaded_another_version_is_restored(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that loaded a third version is reloaded to the version that it served before."""

    def load_another_version_once(replica: Replica) -> None:
        load_another_version(replica)
        replica.on_reload = None

    replicas[1].on_reload = load_another_version_once
    refused_promotion(replicas, registrar)
    assert [replica.served for replica in replicas] == [OLD] * 3


def test_no_replica_keeps_a_version_that_was_undone(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that served another version than the rest does not keep the new one after a failure."""
    replicas[2].on_reload = refuse_model
    replicas[0].served = version(3)
    refused_promotion(replicas, registrar)
    assert NEW not in [replica.served for replica in replicas]


def test_failed_undo_does_not_hide_the_first_error(replicas: list[Replica], registrar: Registrar) -> None:
    """Failures while undoing neither replace the reason of the failed promotion nor stop further restores."""
    registrar.fails = ("undo",)
    replicas[2].on_reload = refuse_model

    def load_once(replica: Replica) -> None:
        replica.load()
        replica.on_reload = end

    replicas[0].on_reload = load_once
    assert refused_promotion(replicas, registrar).endswith("replica-3: a compiled form that does not load")
    reloads = ["reload replica-1", "reload replica-2", "reload replica-3"]
    assert registrar.events == ["check", "accept", *reloads, "undo", *reloads[:2]]


def test_ctrl_c_undoes_the_promotion(replicas: list[Replica], registrar: Registrar) -> None:
    """Ctrl-C between two reloads restores everything and is raised again."""

    def interrupt(_replica: Replica) -> None:
        raise KeyboardInterrupt

    replicas[1].on_reload = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(replicas, registrar)
    assert registrar.wanted == OLD
    assert [replica.served for replica in replicas] == [OLD] * 3
    assert registrar.events == ["check", "accept", "reload replica-1", "reload replica-2", "undo", "reload replica-1"]


def requests_until_settled(monkeypatch: pytest.MonkeyPatch, *versions: str) -> int:
    """Return how many requests two replicas need until all answer with NEW; the last of ``versions`` repeats."""
    requests = 0

    def identify(address: str, _access: replica_client.Access) -> replica_client.Identity:
        nonlocal requests
        assert address == "http://127.0.0.1:1"
        requests += 1
        return replica_client.Identity("replica-1", versions[min(requests, len(versions)) - 1])

    monkeypatch.setattr(replica_client, "identify", identify)
    monkeypatch.setattr(promotion, "_OLD_WORKERS_TIMEOUT_SECONDS", 100)
    wait_for_version("http://127.0.0.1:1", NEW, 2)
    return requests


def test_promotion_settles_after_consecutive_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only consecutive answers of the new version end the wait; any other answer starts the count again."""
    assert requests_until_settled(monkeypatch, "2") == 16
    assert requests_until_settled(monkeypatch, "1", "2", "2", "1", "", "2") == 5 + 16


def test_settling_stops_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old worker that keeps answering, or a service that does not answer, is waited for until a deadline only."""
    for answer in ("1", ""):
        assert requests_until_settled(monkeypatch, answer) <= 100
