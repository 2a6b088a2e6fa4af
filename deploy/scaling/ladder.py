"""The rungs: how many users, for how long, how fast they come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.errors import CommandError
from deploy.variable_types import WholeNumber, parse

# What each `make load PROFILE=` is: users, and minutes.
PROFILES: Mapping[str, tuple[int, int]] = {
    "quick": (500, 5), "medium": (2_000, 10), "load": (5_000, 15), "stress": (10_000, 20),
}  # fmt: skip
MOST_USERS = 100_000
# What a step must have left to be measured: its window is of whole seconds.
LEAST_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Ladder:
    """From ``step_users`` up by as many a step to ``users``, ``spawn_rate`` a second; seconds held, and thrown away."""

    users: int = 10_000
    step_users: int = 500
    spawn_rate: int = 500
    step_seconds: int = 30
    settle_seconds: int = 10

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Ladder:
        """Read USERS, STEP_USERS, SPAWN_RATE, STEP_SECONDS and SETTLE_SECONDS.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        default = cls()
        users = number(environ, "USERS", default.users, MOST_USERS)
        seconds = number(environ, "STEP_SECONDS", default.step_seconds, 3600)
        ladder = cls(
            users=users,
            step_users=number(environ, "STEP_USERS", min(default.step_users, users), MOST_USERS),
            spawn_rate=number(environ, "SPAWN_RATE", default.spawn_rate, MOST_USERS),
            step_seconds=seconds,
            settle_seconds=number(environ, "SETTLE_SECONDS", min(default.settle_seconds, seconds // 3 or 1), 3600),
        )
        ladder.check()
        return ladder

    @classmethod
    def hold(cls, users: int, spawn_rate: int, seconds: int, settle_seconds: int = 10) -> Ladder:
        """One rung: all users at once, held for so long after they have come."""
        come = -(-users // spawn_rate)
        ladder = cls(users, users, spawn_rate, come + seconds, come + settle_seconds)
        ladder.check()
        return ladder

    @classmethod
    def profile(cls, environ: Mapping[str, str]) -> Ladder:
        """One rung by PROFILE, else by USERS, SPAWN_RATE and RUN_TIME (seconds, or as ``5m``).

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        name = environ.get("PROFILE") or "quick"
        if name not in PROFILES:
            raise CommandError(f"PROFILE={name!r}: expected one of {', '.join(PROFILES)}")
        users, minutes = PROFILES[name]
        seconds = _seconds(environ, "RUN_TIME", minutes * 60)
        return cls.hold(
            number(environ, "USERS", users, MOST_USERS),
            number(environ, "SPAWN_RATE", cls().spawn_rate, MOST_USERS),
            seconds,
            number(environ, "SETTLE_SECONDS", min(cls().settle_seconds, seconds // 3), 3600),
        )

    def check(self) -> None:
        """There is something left to measure in a step.

        Raises:
            CommandError: the users are not there before the step is over, or all of it is thrown away.
        """
        if self.step_users > self.users:
            raise CommandError(f"STEP_USERS={self.step_users}: expected at most USERS={self.users}")
        if self.step_seconds - self.settle_seconds < LEAST_SECONDS:
            raise CommandError(
                f"STEP_SECONDS={self.step_seconds}: expected at least {LEAST_SECONDS} more than "
                f"SETTLE_SECONDS={self.settle_seconds}, which are thrown away"
            )
        if self.step_users > self.spawn_rate * self.settle_seconds:
            raise CommandError(
                f"SPAWN_RATE={self.spawn_rate}: {self.step_users} users more take longer to come than the "
                f"{self.settle_seconds} s that are thrown away"
            )

    @property
    def rungs(self) -> list[int]:
        """How many users each step has."""
        return [*range(self.step_users, self.users, self.step_users), self.users]

    @property
    def seconds(self) -> int:
        """All steps together; each begins to be held when its users have come."""
        return len(self.rungs) * (self.step_seconds + self._coming)

    @property
    def _coming(self) -> int:
        return -(-self.step_users // self.spawn_rate) + 1

    @property
    def words(self) -> str:
        """For people."""
        steps = f"+{self.step_users} users a step to {self.users}" if len(self.rungs) > 1 else f"{self.users} users"
        return (
            f"{steps}, {self.spawn_rate} a second, {self.step_seconds} s each, "
            f"of which the first {self.settle_seconds} are thrown away"
        )


def number(environ: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Return a whole number from 1 up, from a variable.

    Raises:
        CommandError: it is none, or above ``most``.
    """
    text = environ.get(name)
    return parse(name, text, WholeNumber(1, most)) if text else default


def _seconds(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name) or str(default)
    digits, unit = (value[:-1], value[-1]) if value[-1] in "smh" else (value, "s")
    good = digits.isascii() and digits.isdigit() and len(digits) < 10
    if not good or not _LEAST_TIME <= int(digits) * _UNITS[unit] <= 24 * 3600:
        raise CommandError(f"{name}={value!r}: expected a time from {_LEAST_TIME} s to a day, as 90s, 5m or 1h")
    return int(digits) * _UNITS[unit]


_LEAST_TIME = 6
_UNITS = {"s": 1, "m": 60, "h": 3600}
