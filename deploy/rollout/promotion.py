"""Moving running replicas to another model version: it is tested first, then one replica after another reloads.

No request is lost. Two protocols hide what differs between the backends: :class:`Replica` is a running replica, and
:class:`Registrar` runs :mod:`deploy.models.promote` in a separate process.
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

# How long a replica may take to load the model, on top of the graceful timeout of its old workers.
_LOAD_TIMEOUT_SECONDS = 180
# How many consecutive new connections per replica must be answered by the new version.
_ANSWERS_PER_REPLICA = 8
# The factor from measured memory to the advised limit: a replica's memory varies from moment to moment.
_MEMORY_MARGIN = 1.1
# How long old workers may still accept connections after the last reload.
_OLD_WORKERS_TIMEOUT_SECONDS = 15


class Replica(Protocol):
    """A running replica that can be told to reload."""

    @property
    def name(self) -> str:
        """The name that the user knows this replica by."""
        ...

    def runs_code(self, digest: str) -> bool:
        """Return whether it runs the code with this digest (deploy/stack/code.py), or code that is not checked."""
        ...

    def health(self) -> Health:
        """Return the replica's `/health` document from a new connection; empty if it does not answer."""
        ...

    def send_sighup(self) -> None:
        """Send SIGHUP to the replica's Gunicorn master, so that it reloads."""
        ...

    def failure(self) -> str | None:
        """Return why the master died or was replaced since the reload, or None."""
        ...


class Registrar(Protocol):
    """The three steps of :mod:`deploy.models.promote`. Each raises a CommandError with the reason."""

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        """Test a version and return it as a candidate; change nothing."""
        ...

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Point the registry and the local records to the candidate; return what they pointed to."""
        ...

    def undo(self, previous: Mapping[str, Any]) -> None:
        """Restore what the candidate replaced; ``previous`` is the result of :meth:`accept`."""
        ...


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a registered model, and the digest of its files."""

    name: str
    number: str
    digest: str

    @classmethod
    def of(cls, health: Health) -> Version | None:
        """Return the version that a replica serves, or None if it did not answer."""
        model = health.get("model")
        if not isinstance(model, dict):
            return None
        # Clients may know the model by another name. Replicas of older images report only one.
        return cls(model.get("registered_name") or model["name"], model["version"], model["digest"])

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def promote(
    replicas: Sequence[Replica], registrar: Registrar, version: str | None, *, force: bool, graceful_timeout: float
) -> Version:
    """Make every replica serve ``version``, or the previous version if it is None; return the version served.

    ``graceful_timeout`` is how many seconds old workers get to finish their requests.

    Raises:
        CommandError: the version was refused, or a replica did not load it; the previous version is restored.
    """
    healths = [_require_health(replica) for replica in replicas]
    served = [Version.of(health) for health in healths]
    digest = next((current.digest for current in served if current), None)
    candidate = registrar.check(version, digest, force=force)
    copy = candidate["copy"]
    wanted = Version(copy["name"], copy["version"], copy["digest"])
    outdated = [replica for replica, current in zip(replicas, served, strict=True) if current != wanted]
    for replica, health in zip(replicas, healths, strict=True):
        if replica in outdated:
            _check_memory(replica.name, health, wanted, candidate["weight"])
    # A model that is served from a folder has no version in the registry.
    numbers = [current.number for current in served if current and current.name == wanted.name]
    served_version = next(filter(str.isdigit, numbers), None)
    previous = registrar.accept({**candidate, "served_version": served_version})
    reloaded: list[tuple[Replica, Version | None]] = []
    try:
        for replica, health in zip(replicas, healths, strict=True):
            if replica in outdated:
                reloaded.append((replica, Version.of(health)))
                _reload(replica, wanted, graceful_timeout)
    except BaseException as error:
        problems = _undo(registrar, previous, reloaded, graceful_timeout)
        outcome = "the previous version is served again"
        if problems:
            outcome = f"not everything was restored ({'; '.join(problems)})"
        if isinstance(error, CommandError):
            raise CommandError(f"{wanted} was not promoted, and {outcome}: {error}") from None
        raise
    return wanted


def wait_for_version(
    address: str, version: Version, replicas: int, access: replica_client.Access = replica_client.OPEN_ACCESS
) -> None:
    """Wait until no old worker accepts connections, so that every later request is answered by ``version``."""
    deadline = time.monotonic() + _OLD_WORKERS_TIMEOUT_SECONDS
    answers = 0
    while answers < _ANSWERS_PER_REPLICA * replicas and time.monotonic() < deadline:
        answers = answers + 1 if replica_client.identify(address, access).version == version.number else 0


def _require_health(replica: Replica) -> Health:
    health = replica.health()
    if not health:
        raise CommandError(f"{replica.name} does not answer: see make logs, or start it again with make up")
    return health


def _check_memory(name: str, health: Health, wanted: Version, weight: Mapping[str, int]) -> None:
    """Refuse a reload that needs more than the memory limit: it keeps both models and their workers in memory."""
    used, limit = health["memory"]["used"], health["memory"]["limit"]
    needed = weight["model"] + health["workers"] * weight["worker"]
    if used is not None and limit is not None and used + needed > limit:
        size = memory_sizes.format_size
        raise CommandError(
            f"{wanted} may not be promoted: not enough memory to reload {name}: {size(used)} of {size(limit)} in use, "
            f"and {size(needed)} more are needed while both models are loaded; "
            f"expected a memory limit of at least {size(round(_MEMORY_MARGIN * (used + needed)))}"
        )


def _reload(replica: Replica, wanted: Version, graceful_timeout: float) -> None:
    """Make a replica reload, and wait for an answer from a worker that was forked after the reload.

    Raises:
        CommandError: the replica does not serve the wanted version, with the reason.
    """
    reloads = _require_health(replica)["reloads"]
    replica.send_sighup()
    timeout = graceful_timeout + _LOAD_TIMEOUT_SECONDS
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        health = replica.health()
        if health and health["reloads"] > reloads:
            if Version.of(health) != wanted:
                raise CommandError(f"{replica.name}: {health.get('refused', 'it loaded another version')}")
            return
        if failure := replica.failure():
            raise CommandError(f"{replica.name}: {failure}")
        time.sleep(0.1)
    raise CommandError(f"{replica.name} did not reload within {timeout:.0f} s; see make logs")


def _undo(
    registrar: Registrar,
    previous: Mapping[str, Any],
    reloaded: Sequence[tuple[Replica, Version | None]],
    graceful_timeout: float,
) -> list[str]:
    """Restore the registry and each reloaded replica as far as possible; return what could not be restored."""
    problems = []
    try:
        registrar.undo(previous)
    except CommandError as error:
        problems.append(f"the registry was not restored, so replicas that start may load another version: {error}")
    for replica, version in reloaded:
        try:
            if version is not None and Version.of(replica.health()) != version:
                _restore(replica, version, graceful_timeout)
        except CommandError as error:
            problems.append(str(error))
    return problems


def _restore(replica: Replica, version: Version, graceful_timeout: float) -> None:
    """Make a replica reload the version that it served, even if its workers do not answer now.

    Raises:
        CommandError: the replica does not serve this version in time.
    """
    with suppress(CommandError):  # A master that is being started again loads this version without a signal.
        replica.send_sighup()
    deadline = time.monotonic() + graceful_timeout + _LOAD_TIMEOUT_SECONDS
    while Version.of(replica.health()) != version:
        if time.monotonic() > deadline:
            raise CommandError(f"{replica.name} does not serve {version}")
        time.sleep(0.1)
