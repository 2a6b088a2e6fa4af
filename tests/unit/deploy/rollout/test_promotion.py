"""How replicas come to another version one after another, with replicas and a registrar that are only remembered."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.rollout import promotion, replica_client
from deploy.rollout.promotion import Version, promote, settle
from tests.support.refusals import refusal

M = 1 << 20
PATIENCE = 30.0


def version(number: int) -> Version:
    return Version("hills", str(number), str(number) * 64)


OLD, NEW = version(1), version(2)


def health_of(one: Version, reloads: int = 0, **changes: Any) -> dict[str, Any]:
    """What a replica of one worker says of itself."""
    model = {"name": one.name, "version": one.number, "digest": one.digest}
    return {"model": model, "reloads": reloads, "workers": 1, "memory": {"used": None, "limit": None}} | changes


@dataclass
class Registrar:
    """Remembers what it was asked; ``wanted`` is what its alias leads to, and ``fails`` names the steps that fail."""

    events: list[str]
    wanted: Version = OLD
    candidate: Version = NEW
    fails: tuple[str, ...] = ()
    weight: Mapping[str, int] = field(default_factory=lambda: {"needs": 0, "model": 0, "worker": 0})
    asked: list[tuple[str | None, str | None, bool]] = field(default_factory=list)

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        self._step("check")
        self.asked.append((version, served, force))
        one = self.candidate
        copy = {"name": one.name, "version": one.number, "digest": one.digest}
        return {"copy": copy, "weight": self.weight}

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        self._step("accept")
        before, self.wanted = self.wanted, self.candidate
        assert candidate["copy"]["version"] == self.candidate.number
        return {"before": before}

    def undo(self, before: Mapping[str, Any]) -> None:
        self._step("undo")
        self.wanted = before["before"]

    def _step(self, name: str) -> None:
        self.events.append(name)
        if name in self.fails:
            raise CommandError(f"{name} failed")


@dataclass
class Replica:
    """Loads what the registrar's alias leads to when it is told to reload, unless ``on_reload`` does something else.

    It is seen to have reloaded at the second look: at the first, a worker from before still answers.
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

    def hang_up(self) -> None:
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


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that passes only when it is looked at, a second each time, and sleeping that takes none."""
    seconds = itertools.count()
    watch = SimpleNamespace(monotonic=lambda: float(next(seconds)), sleep=lambda _seconds: None)
    monkeypatch.setattr(promotion, "time", watch)


@pytest.fixture
def registrar() -> Registrar:
    return Registrar([])


@pytest.fixture
def replicas(registrar: Registrar) -> list[Replica]:
    return [Replica(f"replica-{slot}", registrar) for slot in (1, 2, 3)]


def run(replicas: list[Replica], registrar: Registrar, wanted: str | None = "2", *, force: bool = False) -> Version:
    return promote(replicas, registrar, wanted, force=force, patience=PATIENCE)


def refused_promotion(replicas: list[Replica], registrar: Registrar) -> str:
    """Return why a promotion is refused or undone."""
    return refusal(lambda: run(replicas, registrar))


def test_replicas_reload_in_order_after_the_check(replicas: list[Replica], registrar: Registrar) -> None:
    """It is tried first, then everything leads to it, and then the replicas reload in their order."""
    assert run(replicas, registrar) == NEW
    assert registrar.events == ["check", "accept", "reload replica-1", "reload replica-2", "reload replica-3"]
    assert [(one.served, one.reloads) for one in replicas] == [(NEW, 1)] * 3


def test_the_next_waits_for_the_one_before(replicas: list[Replica], registrar: Registrar) -> None:
    """No replica is told to reload before the one before it serves the new version."""

    def reload(one: Replica) -> None:
        seen.append([other.served.number for other in replicas])
        one.load()

    seen: list[list[str]] = []
    for one in replicas:
        one.on_reload = reload
    run(replicas, registrar)
    assert seen == [["1", "1", "1"], ["2", "1", "1"], ["2", "2", "1"]]


@pytest.mark.parametrize(("wanted", "force"), [("2", False), (None, False), ("2", True)])
def test_registrar_receives_version_digest_and_force(
    replicas: list[Replica], registrar: Registrar, wanted: str | None, force: bool
) -> None:
    """The version, or none for the one before, the digest that answers now, and whether to let differences pass."""
    run(replicas, registrar, wanted, force=force)
    assert registrar.asked == [(wanted, OLD.digest, force)]


def test_promotion_without_replicas_moves_the_alias(registrar: Registrar) -> None:
    """Without a replica the alias moves all the same, for those that are started later."""
    assert run([], registrar) == NEW
    assert registrar.asked == [("2", None, False)]
    assert registrar.events == ["check", "accept"]


def test_replicas_with_the_version_are_not_reloaded(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that serves the version already is left alone."""
    replicas[1].served = NEW
    run(replicas, registrar)
    assert registrar.events == ["check", "accept", "reload replica-1", "reload replica-3"]
    assert replicas[1].reloads == 0


def test_promoting_the_served_version_reloads_nothing(replicas: list[Replica], registrar: Registrar) -> None:
    """What is served already is promoted without a reload."""
    run(replicas, registrar)
    registrar.events.clear()
    assert run(replicas, registrar) == NEW
    assert registrar.events == ["check", "accept"]


def test_same_files_of_another_version(replicas: list[Replica], registrar: Registrar) -> None:
    """Two versions of the same files are two: the answers name the version."""
    registrar.candidate = Version("hills", "2", OLD.digest)
    run(replicas, registrar)
    assert [one.served.number for one in replicas] == ["2", "2", "2"]


def test_refused_candidate_changes_nothing(replicas: list[Replica], registrar: Registrar) -> None:
    """What the registrar refuses changes nothing, and its reason is told."""
    registrar.fails = ("check",)
    assert refused_promotion(replicas, registrar) == "check failed"
    assert registrar.events == ["check"]


def test_failed_accept_reloads_no_replica(replicas: list[Replica], registrar: Registrar) -> None:
    """Where the alias cannot be moved, no replica is touched."""
    registrar.fails = ("accept",)
    assert refused_promotion(replicas, registrar) == "accept failed"
    assert registrar.events == ["check", "accept"]


@pytest.mark.parametrize("silent", [0, 2])
def test_unresponsive_replica_stops_promotion_early(replicas: list[Replica], registrar: Registrar, silent: int) -> None:
    """A replica that is not well is named before anything is tried."""
    replicas[silent].answers = False
    told = refused_promotion(replicas, registrar)
    assert told == f"replica-{silent + 1} does not answer: make up brings it back, or make logs tells why"
    assert registrar.events == []


def test_too_large_for_the_limit(replicas: list[Replica], registrar: Registrar) -> None:
    """A model that does not fit beside the one before is refused with figures before anything changes."""
    registrar.weight = {"needs": 300 * M, "model": 100 * M, "worker": 20 * M}
    replicas[2].extra = {"workers": 2, "memory": {"used": 200 * M, "limit": 256 * M}}
    assert refused_promotion(replicas, registrar) == (
        "hills version 2 may not be promoted: it does not fit beside the one before: "
        "replica-3 uses 200M of 256M and would take 140M more; a limit of 374M would do"
    )
    assert registrar.events == ["check"]


@pytest.mark.parametrize(
    "memory", [{"used": 136 * M, "limit": 256 * M}, {"used": None, "limit": M}, {"used": 200 * M, "limit": None}]
)
def test_sufficient_or_unknown_memory_allows_promotion(
    replicas: list[Replica], registrar: Registrar, memory: dict[str, int | None]
) -> None:
    """Where it fits exactly, or nobody knows, the limit stands in nothing's way."""
    registrar.weight = {"needs": 300 * M, "model": 100 * M, "worker": 20 * M}
    replicas[0].extra = {"memory": memory}
    assert run(replicas, registrar) == NEW


def test_room_is_asked_of_those_behind(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that has the version already needs no room for it."""
    registrar.weight = {"needs": 300 * M, "model": 100 * M, "worker": 20 * M}
    replicas[0].served = NEW
    replicas[0].extra = {"memory": {"used": 200 * M, "limit": 256 * M}}
    assert run(replicas, registrar) == NEW


def refuses(one: Replica) -> None:
    one.reloads += 1
    one.extra = {"refused": "a compiled form that does not load"}


def ends(one: Replica) -> None:
    one.answers, one.ended = False, "its master has ended; see make logs"


def finds_another(one: Replica) -> None:
    one.reloads += 1
    one.served = version(3)


def does_nothing(_one: Replica) -> None:
    pass


BACK = "what was served before is again"
LOST = "not all is as before, see replica-2"
FAILURES = [
    (refuses, BACK, "a compiled form that does not load"),
    (ends, LOST, "its master has ended; see make logs"),
    (finds_another, LOST, "it found another version"),
    (does_nothing, BACK, "has not reloaded in 210 s; see make logs"),
]


@pytest.mark.parametrize(("fails", "outcome", "reason"), FAILURES)
def test_failed_reload_restores_alias_and_replicas(
    replicas: list[Replica], registrar: Registrar, fails: Callable[[Replica], None], outcome: str, reason: str
) -> None:
    """Where one does not take it, alias and replicas are taken back; one that does not come back is named."""
    replicas[1].on_reload = fails
    told = refused_promotion(replicas, registrar)
    assert told.startswith(f"hills version 2 was not promoted, and {outcome}: replica-2")
    assert told.endswith(reason)
    assert registrar.wanted == OLD
    assert replicas[0].served == OLD
    assert replicas[0].reloads == 2
    assert replicas[2].reloads == 0
    assert registrar.events[:5] == ["check", "accept", "reload replica-1", "reload replica-2", "undo"]
    assert "reload replica-3" not in registrar.events


def test_replica_that_refuses_is_not_reloaded_again(replicas: list[Replica], registrar: Registrar) -> None:
    """One that serves the version before needs no second reload for it."""
    replicas[1].on_reload = refuses
    refused_promotion(replicas, registrar)
    assert registrar.events.count("reload replica-2") == 1


def test_replica_that_found_another_is_brought_back(replicas: list[Replica], registrar: Registrar) -> None:
    """One that came to serve a third version is made to serve the one before again."""

    def strays(one: Replica) -> None:
        finds_another(one)
        one.on_reload = None

    replicas[1].on_reload = strays
    refused_promotion(replicas, registrar)
    assert [one.served for one in replicas] == [OLD] * 3


def test_each_goes_back_to_its_own(replicas: list[Replica], registrar: Registrar) -> None:
    """A replica that had served something else than the others is not left with the new version."""
    replicas[2].on_reload = refuses
    replicas[0].served = version(3)
    refused_promotion(replicas, registrar)
    assert NEW not in [one.served for one in replicas]


def test_first_reason_is_told(replicas: list[Replica], registrar: Registrar) -> None:
    """What fails while everything is taken back hides neither the reason nor the replicas that can be taken back."""
    registrar.fails = ("undo",)
    replicas[2].on_reload = refuses

    def only_once(one: Replica) -> None:
        one.load()
        one.on_reload = ends

    replicas[0].on_reload = only_once
    assert refused_promotion(replicas, registrar).endswith("replica-3: a compiled form that does not load")
    reloads = ["reload replica-1", "reload replica-2", "reload replica-3"]
    assert registrar.events == ["check", "accept", *reloads, "undo", *reloads[:2]]


def test_ctrl_c_undoes_the_promotion(replicas: list[Replica], registrar: Registrar) -> None:
    """Ctrl-C between two replicas takes everything back, and stays Ctrl-C."""

    def interrupted(_one: Replica) -> None:
        raise KeyboardInterrupt

    replicas[1].on_reload = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(replicas, registrar)
    assert registrar.wanted == OLD
    assert [one.served for one in replicas] == [OLD] * 3
    assert registrar.events == ["check", "accept", "reload replica-1", "reload replica-2", "undo", "reload replica-1"]


def settled(monkeypatch: pytest.MonkeyPatch, *answers: str) -> int:
    """How many requests it took for two replicas to settle; the last answer goes on for ever."""
    asked = 0

    def marks(address: str, _access: replica_client.Access) -> replica_client.Marks:
        nonlocal asked
        assert address == "http://127.0.0.1:1"
        asked += 1
        return replica_client.Marks("replica-1", answers[min(asked, len(answers)) - 1])

    monkeypatch.setattr(replica_client, "marks", marks)
    monkeypatch.setattr(promotion, "_SETTLING", 100)
    settle("http://127.0.0.1:1", NEW, 2)
    return asked


def test_promotion_settles_after_stable_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is settled when the new version alone has answered for a while, and every other answer begins that anew."""
    assert settled(monkeypatch, "2") == 16
    assert settled(monkeypatch, "1", "2", "2", "1", "", "2") == 5 + 16


def test_settling_stops_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old worker that never closes its door, or nobody who answers, is not waited for beyond a deadline."""
    for answer in ("1", ""):
        assert settled(monkeypatch, answer) <= 100
