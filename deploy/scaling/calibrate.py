"""Whether a step measured the service, or the generator of its load.

Locust's users are a closed loop in one process each CPU: when that process has no CPU left, answers lie in its sockets
and users wake up late, and what it then calls the service's latency is its own queue. The rule, in order; the first
that holds makes the step *generator-bound*, and no verdict on the service is drawn from it:

1. **Two clocks.** P95 by Locust is above P95 by Nginx by more than 25 %, or by more than 3 ms where that is more (Nginx
   counts whole milliseconds). Nginx's clock runs from a request's first byte to its answer's last, so whatever a slow
   service takes is in both, and what the users' side adds is in Locust's alone.
2. **No second clock.** Nginx's log has less than 90 % of the requests that were answered.
3. **Out of CPU.** A process of Locust's used 90 % of a CPU, or all of them 90 % of their limit.
4. **Late users.** There were less than 90 % of the requests that so many users make, users / (mean wait + mean
   latency) by Little's law. Not asked where the mean latency is above a tenth of the window: it is a law of steady
   states.
5. **Calibration.** As many users against ``/null``, a constant answer by Nginx itself, were out of CPU or late (3, 4),
   and the step reached 90 % of their requests a second. Their clocks do not count: the step has its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.scaling.step import Step
from server.system.files import write_atomically

CLOCKS_PERCENT, CLOCKS_MS = 25.0, 3.0
BUSY_PERCENT = 90.0
_ENOUGH = 0.9
_STEADY = 0.1


@dataclass(frozen=True, slots=True)
class Null:
    """What so many users saw of ``/null``: requests a second, P95 in ms, and why the generator was at its limit."""

    users: int
    rps: float
    p95: float
    bound: str = ""


def generator_bound(step: Step, mean_wait: float, null: Null | None = None) -> str:
    """Why the step is generator-bound, with figures; empty where it is not. ``mean_wait`` is the users', in seconds."""
    for reason in (_clocks(step), _second_clock(step), _busy(step), _late(step, mean_wait), _calibrated(step, null)):
        if reason:
            return reason
    return ""


def at_limit(step: Step, mean_wait: float) -> str:
    """Why the generator could not have done more, whatever it asked; empty where it could."""
    return _busy(step) or _late(step, mean_wait)


def _clocks(step: Step) -> str:
    apart = step.locust_p95 - step.nginx_p95
    if not step.nginx_requests or apart <= max(CLOCKS_MS, step.nginx_p95 * CLOCKS_PERCENT / 100):
        return ""
    return f"P95 is {step.locust_p95:g} ms by Locust and {step.nginx_p95:g} ms by Nginx"


def _second_clock(step: Step) -> str:
    answered = step.requests - step.failures
    if step.nginx_requests >= _ENOUGH * answered:
        return ""
    return f"Nginx's log has {step.nginx_requests} of {answered} requests"


def _busy(step: Step) -> str:
    if step.locust_cpu_percent is None or step.locust_cpu_percent < BUSY_PERCENT:
        return ""
    return f"Locust used {step.locust_cpu_percent:.0f} % of the CPU that it may use"


def _late(step: Step, mean_wait: float) -> str:
    latency = step.locust_mean / 1000
    due = step.users / (mean_wait + latency)
    if latency > _STEADY * step.seconds or step.rps >= _ENOUGH * due:
        return ""
    return f"users came late: {step.rps:.0f} of {due:.0f} requests/s"


def _calibrated(step: Step, null: Null | None) -> str:
    if null is None or not null.bound or not null.rps or step.rps < _ENOUGH * null.rps:
        return ""
    return f"as many users reach {null.rps:.0f} requests/s against a constant answer ({null.bound})"


class Calibration:
    """What was measured against ``/null``, kept in a file for this machine and this kind of generator."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._known = {one.users: one for one in self._read()}

    def missing(self, rungs: Sequence[int]) -> bool:
        """Whether any of these numbers of users has nothing to be compared with, or was bound, perhaps by chance."""
        found = [self.of(users, rungs[-1]) for users in rungs]
        return any(null is None or null.bound for null in found)

    def of(self, users: int, top: int) -> Null | None:
        """The one for as many users, or for the next more within a tenth of the ladder's top."""
        above = [known for known in self._known if users <= known <= users + top / 10]
        return self._known[min(above)] if above else None

    def keep(self, null: Null) -> None:
        """Remember one.

        Raises:
            OSError: it cannot be written.
        """
        self._known[null.users] = null
        everything = self._all() | {self._key: [asdict(self._known[users]) for users in sorted(self._known)]}
        write_atomically(self._path, json.dumps(everything, indent=1))

    def _read(self) -> list[Null]:
        try:
            return [_null(one) for one in self._all().get(self._key, [])]
        except (TypeError, KeyError, AttributeError):  # of another version, or damaged
            return []

    def _all(self) -> dict[str, list[dict[str, object]]]:
        try:
            document = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}


def _null(document: Mapping[str, object]) -> Null:
    if set(document) != {"users", "rps", "p95", "bound"}:
        raise TypeError
    users, rps, p95, bound = (document[name] for name in ("users", "rps", "p95", "bound"))
    if not isinstance(users, int) or not isinstance(rps, int | float) or not isinstance(p95, int | float):
        raise TypeError
    return Null(users, rps, p95, str(bound))


def rungs_to_calibrate(rungs: Sequence[int]) -> tuple[int, int]:
    """A ladder with at most ten rungs to the same top: how many users a step, and in all."""
    return max(rungs[0], -(-rungs[-1] // 10)), rungs[-1]


def key(parts: Mapping[str, object]) -> str:
    """What tells one calibration from another, as text."""
    return ", ".join(f"{name} {value}" for name, value in parts.items())
