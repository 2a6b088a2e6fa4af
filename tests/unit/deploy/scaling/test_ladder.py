"""Tests of the ladder of users."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import CommandError
from deploy.scaling.ladder import PROFILES, Ladder


def test_empty_variables_give_the_default_ladder() -> None:
    """Unset and empty variables give steps of 500 users up to 10,000, 30 s each."""
    ladder = Ladder.from_env(
        {"USERS": "", "STEP_USERS": "", "SPAWN_RATE": "", "STEP_SECONDS": "", "SETTLE_SECONDS": ""}
    )
    assert ladder == Ladder.from_env({}) == Ladder(10_000, 500, 500, 30, 10)
    assert ladder.rungs == list(range(500, 10_001, 500))
    assert ladder.seconds == 20 * (30 + 2)


def test_each_variable_sets_its_ladder_field() -> None:
    """Each variable sets its field of the ladder."""
    environ = {"USERS": "90", "STEP_USERS": "40", "SPAWN_RATE": "20", "STEP_SECONDS": "9", "SETTLE_SECONDS": "4"}
    assert Ladder.from_env(environ) == Ladder(90, 40, 20, 9, 4)


def test_defaults_depend_on_chosen_values() -> None:
    """Fewer users than a step are one step, and the settling time of short steps is a third of their time."""
    assert Ladder.from_env({"USERS": "90"}) == Ladder(90, 90, 500, 30, 10)
    assert Ladder.from_env({"STEP_SECONDS": "15"}) == Ladder(10_000, 500, 500, 15, 5)
    assert Ladder.from_env({"STEP_SECONDS": "60"}) == Ladder(10_000, 500, 500, 60, 10)


@pytest.mark.parametrize(
    ("users", "step", "rungs"),
    [
        (100, 50, [50, 100]), (110, 50, [50, 100, 110]), (50, 50, [50]), (99, 50, [50, 99]), (1, 1, [1]),
        (3, 1, [1, 2, 3]),
    ],
)  # fmt: skip
def test_last_rung_is_the_requested_maximum(users: int, step: int, rungs: list[int]) -> None:
    """The last step is the maximum, even if the step size does not divide it."""
    ladder = Ladder(users, step)
    assert ladder.rungs == rungs
    assert ladder.seconds == 32 * len(rungs)


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_rungs_rise_by_at_most_a_step(users: int, step: int) -> None:
    """Users rise by at most the step size up to the maximum."""
    rungs = Ladder(max(users, step), min(users, step) if min(users, step) > 99 else max(users, step)).rungs
    assert rungs[-1] == max(users, step)
    assert all(0 < above - below <= rungs[0] for below, above in pairwise(rungs))


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "1e3", " 5", "1_000", "٣", "100001", "9" * 5000])
@pytest.mark.parametrize("name", ["USERS", "STEP_USERS", "SPAWN_RATE"])
def test_invalid_users_are_named_with_expectation(name: str, value: str) -> None:
    """A value that is not an integer in range is refused with its variable, the value and the expectation."""
    with pytest.raises(CommandError) as caught:
        Ladder.from_env({name: value})
    assert str(caught.value) == f"{name}={value!r}: expected a whole number from 1 to 100000"


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "30s", "3601"])
@pytest.mark.parametrize("name", ["STEP_SECONDS", "SETTLE_SECONDS"])
def test_step_time_out_of_range_is_refused(name: str, value: str) -> None:
    """A step time of zero or more than an hour is refused."""
    with pytest.raises(CommandError) as caught:
        Ladder.from_env({name: value})
    assert str(caught.value) == f"{name}={value!r}: expected a whole number from 1 to 3600"


def test_step_above_the_maximum_is_refused() -> None:
    """A step size above the maximum is refused."""
    with pytest.raises(CommandError, match=r"^STEP_USERS=11: expected at most USERS=10$"):
        Ladder.from_env({"USERS": "10", "STEP_USERS": "11"})


@pytest.mark.parametrize("settle", ["29", "30", "31", "3600"])
def test_discarding_the_complete_step_is_refused(settle: str) -> None:
    """A settling time that discards the complete step is refused."""
    with pytest.raises(
        CommandError, match=f"^STEP_SECONDS=30: expected at least 2 more than SETTLE_SECONDS={settle}, "
    ):
        Ladder.from_env({"SETTLE_SECONDS": settle})


def test_spawning_slower_than_the_step_is_refused() -> None:
    """A spawn rate with which the users arrive after their step is refused."""
    assert Ladder.from_env({"SPAWN_RATE": "50"}).spawn_rate == 50
    with pytest.raises(
        CommandError, match=r"^SPAWN_RATE=49: 500 users more take longer to come than the 10 s that are"
    ):
        Ladder.from_env({"SPAWN_RATE": "49"})


def test_hold_discards_time_until_all_users_arrived() -> None:
    """A hold is one step whose time starts when all users have arrived; the time before is discarded."""
    ladder = Ladder.hold(1001, 500, 60)
    assert ladder == Ladder(1001, 1001, 500, 63, 13)
    assert ladder.rungs == [1001]
    assert Ladder.hold(1, 1, 30, 5) == Ladder(1, 1, 1, 31, 6)


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(12, 3600))
def test_hold_measures_the_requested_seconds(users: int, spawn_rate: int, seconds: int) -> None:
    """A hold measures the requested time less the settling time at any spawn rate."""
    ladder = Ladder.hold(users, spawn_rate, seconds)
    assert ladder.step_seconds - ladder.settle_seconds == seconds - 10


def test_hold_without_measured_time_is_refused() -> None:
    """A hold of which the settling time leaves nothing is refused."""
    with pytest.raises(CommandError):
        Ladder.hold(10, 10, 10)


def test_profiles_set_users_and_minutes() -> None:
    """Each profile sets the users and the minutes; the default profile is quick."""
    assert PROFILES == {"quick": (500, 5), "medium": (2000, 10), "load": (5000, 15), "stress": (10_000, 20)}
    for name, (users, minutes) in PROFILES.items():
        assert Ladder.profile({"PROFILE": name}) == Ladder.hold(users, 500, minutes * 60)
    assert Ladder.profile({}) == Ladder.profile({"PROFILE": ""}) == Ladder.profile({"PROFILE": "quick"})


def test_unknown_profile_error_lists_profiles() -> None:
    """An unknown profile is refused with the list of profiles."""
    with pytest.raises(CommandError, match=r"^PROFILE='Quick': expected one of quick, medium, load, stress$"):
        Ladder.profile({"PROFILE": "Quick"})


@pytest.mark.parametrize(
    ("value", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("24h", 86_400), ("0060", 60)]
)
def test_run_time_unit_overrides_the_profile(value: str, seconds: int) -> None:
    """A run time is in seconds unless it has a unit, and replaces the profile's."""
    assert Ladder.profile({"RUN_TIME": value, "PROFILE": "stress"}) == Ladder.hold(10_000, 500, seconds)


@pytest.mark.parametrize(
    "value", ["abc", "0", "0m", "m", "-5", "1.5m", "5 m", " ", "5M", "25h", "86401", "1d", "٣m", "m5", "9" * 5000]
)
def test_invalid_run_time_is_named_with_expectation(value: str) -> None:
    """An invalid run time is refused with its variable, the value and the expectation."""
    with pytest.raises(CommandError) as caught:
        Ladder.profile({"RUN_TIME": value})
    assert str(caught.value) == f"RUN_TIME={value!r}: expected a time from 6 s to a day, as 90s, 5m or 1h"


@pytest.mark.parametrize("value", ["1s", "5s", "5"])
def test_too_short_run_time_is_refused(value: str) -> None:
    """A run time shorter than the settling time is refused with the variable that the user set."""
    with pytest.raises(CommandError, match=r"^RUN_TIME="):
        Ladder.profile({"RUN_TIME": value})


@pytest.mark.parametrize("name", ["USERS", "SPAWN_RATE"])
def test_invalid_users_of_a_profile_are_refused(name: str) -> None:
    """The users and the spawn rate of a profile can be set only to numbers."""
    assert Ladder.profile({"USERS": "20", "SPAWN_RATE": "10"}) == Ladder.hold(20, 10, 300)
    with pytest.raises(CommandError, match=f"^{name}='abc': expected a whole number from 1 to 100000$"):
        Ladder.profile({name: "abc"})


def test_ladder_description_fits_one_line() -> None:
    """The description of a ladder fits one line."""
    assert Ladder().words == (
        "+500 users a step to 10000, 500 a second, 30 s each, of which the first 10 are thrown away"
    )
    assert Ladder.hold(5, 5, 20).words == "5 users, 5 a second, 21 s each, of which the first 11 are thrown away"
