"""Moving to another version of the model without a lost request: first it is tried, then replica after replica reloads.

What differs between the backends is behind two protocols: the :class:`Replica` that runs, and the :class:`Registrar`,
which is :mod:`deploy.models.promote` in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from deploy.errors import CommandError
from deploy.rollout import replica_client
from deploy.rollout.health import Health
from server.system import memory_sizes

# Seconds that a replica may take to load the model, beside what it gives its old workers to finish.
_LOADING = 180
# New connections that have to be answered by the new version, one after another, for each replica.
_WITNESSES = 8
# How much more than what was counted is advised: a replica's use changes from one moment to the next.
_ROOM = 1.1
# Seconds in which the last old worker has closed its door.
_SETTLING = 15


class Replica(Protocol):
    """A running replica that can be told to reload."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    def runs_code(self, digest: str) -> bool:
        """Return whether it runs the code with this digest (deploy/stack/code.py), or code that is not checked."""
        ...

    def health(self) -> Health:
        """What it says of itself on a new connection; nothing where it does not answer."""
        ...

    def hang_up(self) -> None:
        """Send its master SIGHUP."""
        ...

    def failure(self) -> str | None:
        """Why its master is not the one that was sent SIGHUP, if so."""
        ...


class Registrar(Protocol):
    """The three steps of :mod:`deploy.models.promote`. Each raises a CommandError with the reason."""

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        """The candidate; nothing has changed."""
        ...

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Let everything lead to it; how it was."""
        ...

    def undo(self, before: Mapping[str, Any]) -> None:
        """Take that back."""
        ...


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a registered model, and the digest of its files."""

    name: str
    number: str
    digest: str

    @classmethod
    def of(cls, health: Health) -> Version | None:
        """The one that a replica serves."""
        model = health.get("model")
        return cls(model["name"], model["version"], model["digest"]) if isinstance(model, dict) else None

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def promote(
    replicas: Sequence[Replica], registrar: Registrar, version: str | None, *, force: bool, patience: float
) -> Version:
    """Let every replica serve ``version``, or the one before this one; ``patience`` is what old workers get (seconds).

    Raises:
        CommandError: it may not take over, or a replica did not take it; what was served before is served on.
    """
    healths = [_well(replica) for replica in replicas]
    served = [Version.of(health) for health in healths]
    digest = next((one.digest for one in served if one), None)
    candidate = registrar.check(version, digest, force=force)
    copy = candidate["copy"]
    wanted = Version(copy["name"], copy["version"], copy["digest"])
    behind = [replica for replica, one in zip(replicas, served, strict=True) if one != wanted]
    for replica, health in zip(replicas, healths, strict=True):
        if replica in behind:
            _refuse_too_large(replica.name, health, wanted, candidate["weight"])
    before = registrar.accept(candidate)
    reloaded: list[tuple[Replica, Version | None]] = []
    try:
        for replica, health in zip(replicas, healths, strict=True):
            if replica in behind:
                reloaded.append((replica, Version.of(health)))
                _reload(replica, wanted, patience)
    except BaseException as error:
        lost = _take_back(registrar, before, reloaded, patience)
        outcome = f"not all is as before, see {', '.join(lost)}" if lost else "what was served before is again"
        if isinstance(error, CommandError):
            raise CommandError(f"{wanted} was not promoted, and {outcome}: {error}") from None
        raise
    return wanted


def settle(address: str, version: Version, replicas: int, access: replica_client.Access = replica_client.OPEN) -> None:
    """Wait until the last old worker has closed its door: what comes after this is answered by the new version."""
    deadline = time.monotonic() + _SETTLING
    witnesses = 0
    while witnesses < _WITNESSES * replicas and time.monotonic() < deadline:
        witnesses = witnesses + 1 if replica_client.marks(address, access).version == version.number else 0


def _well(replica: Replica) -> Health:
    health = replica.health()
    if not health:
        raise CommandError(f"{replica.name} does not answer: make up brings it back, or make logs tells why")
    return health


def _refuse_too_large(name: str, health: Health, wanted: Version, weight: Mapping[str, int]) -> None:
    """While a replica reloads it holds both models, and the workers of both."""
    used, limit = health["memory"]["used"], health["memory"]["limit"]
    more = weight["model"] + health["workers"] * weight["worker"]
    if used is not None and limit is not None and used + more > limit:
        raise CommandError(
            f"{wanted} may not be promoted: it does not fit beside the one before: {name} uses "
            f"{memory_sizes.format_size(used)} of {memory_sizes.format_size(limit)} and would take "
            f"{memory_sizes.format_size(more)} more; "
            f"a limit of {memory_sizes.format_size(round(_ROOM * (used + more)))} would do"
        )


def _reload(replica: Replica, wanted: Version, patience: float) -> None:
    """Send the signal, and wait for the first worker that was forked after it.

    Raises:
        CommandError: it does not serve what is wanted, for this reason.
    """
    number = _well(replica)["reloads"]
    replica.hang_up()
    _wait(replica, wanted, number, patience)


def _wait(replica: Replica, wanted: Version, number: int, patience: float) -> None:
    """Until a worker answers that was forked after reload ``number``.

    Raises:
        CommandError: it does not serve what is wanted, for this reason.
    """
    deadline = time.monotonic() + patience + _LOADING
    while time.monotonic() < deadline:
        health = replica.health()
        if health and health["reloads"] > number:
            if Version.of(health) != wanted:
                raise CommandError(f"{replica.name}: {health.get('refused', 'it found another version')}")
            return
        if failure := replica.failure():
            raise CommandError(f"{replica.name}: {failure}")
        time.sleep(0.1)
    raise CommandError(f"{replica.name} has not reloaded in {patience + _LOADING:.0f} s; see make logs")


def _take_back(
    registrar: Registrar, before: Mapping[str, Any], reloaded: Sequence[tuple[Replica, Version | None]], patience: float
) -> list[str]:
    """As it was, as far as it can be; the names of the replicas that do not serve what they did, and why not."""
    lost = []
    try:
        registrar.undo(before)
    except CommandError as error:
        lost.append(f"the registry is not as it was ({error}), and so a replica that starts")
    for replica, version in reloaded:
        try:
            if version is not None and Version.of(replica.health()) != version:
                _restore(replica, version, patience)
        except CommandError:
            lost.append(replica.name)
    return lost


def _restore(replica: Replica, version: Version, patience: float) -> None:
    """Send the signal to whoever is there: a master whose workers do not answer may do with another model.

    Raises:
        CommandError: it does not serve this version.
    """
    with suppress(CommandError):  # it is being started again, and takes that version by itself
        replica.hang_up()
    deadline = time.monotonic() + patience + _LOADING
    while Version.of(replica.health()) != version:
        if time.monotonic() > deadline:
            raise CommandError(f"{replica.name} does not serve {version}")
        time.sleep(0.1)
