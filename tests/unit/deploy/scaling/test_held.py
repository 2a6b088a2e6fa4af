"""Tests of the number of users that a run held, and of the difference between two runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploy.scaling.held import CUT, GENERATOR, LESS, MORE, SAME, SLO, TOP, UNKNOWN, Held, differ
from deploy.scaling.results import Run
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from tests.support.lab_results import make_ladder, make_run, make_step


def make_held(holds: int, then: str = FAIL, to: int = 10_000) -> Held:
    return Held.of(make_ladder("1x1/1G", holds, then, to))


@pytest.mark.parametrize(
    ("run", "users", "limit"),
    [
        (make_ladder("1x1", 3000), 3000, SLO),
        (make_ladder("1x1", 3000, GENERATOR_BOUND), 3000, GENERATOR),
        (make_ladder("1x1", 10_000), 10_000, TOP),
        (make_ladder("1x1", 0), 0, SLO),
        (make_run("1x1", make_step(500), done=False), 500, CUT),
        (make_run("1x1", ended="no replica started"), 0, CUT),
    ],
)
def test_run_limit_follows_from_how_it_ended(run: Run, users: int, limit: str) -> None:
    """A run held its passed users; its end decides whether it may hold more."""
    held = Held.of(run)
    assert (held.users, held.limit, held.at_least == "") == (users, limit, limit == SLO)


def test_pass_above_a_miss_does_not_count() -> None:
    """Passed steps above the first miss do not count, in any order."""
    missed = replace(make_step(1000), verdict=FAIL)
    held = Held.of(make_run("1x1", make_step(1500), missed, make_step(500)))
    assert (held.users, held.missed and held.missed.users) == (500, 1000)


@pytest.mark.parametrize(
    ("above", "users", "limit"),
    [
        ([make_step(1500)], 1500, TOP),
        ([make_step(1500), replace(make_step(2000), verdict=FAIL)], 1500, SLO),
        ([make_step(1500), replace(make_step(2000), verdict=GENERATOR_BOUND)], 1500, GENERATOR),
        ([replace(make_step(1500), verdict=FAIL), make_step(2000)], 500, GENERATOR),
    ],
)
def test_generator_bound_step_is_no_verdict(above: list[Step], users: int, limit: str) -> None:
    """A generator-bound step neither passes nor misses: a pass above it counts, and the next miss ends the run."""
    bound = replace(make_step(1000), verdict=GENERATOR_BOUND)
    held = Held.of(make_run("1x1", make_step(500), bound, *above))
    assert (held.users, held.limit) == (users, limit)


def test_users_that_passed_and_missed_are_not_held() -> None:
    """Users that passed once and missed once are not held."""
    assert (
        Held.of(make_run("1x1", make_step(500), make_step(1000), replace(make_step(1000), verdict=FAIL))).users == 500
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (make_held(5000), make_held(5000), SAME),
        (make_held(5000), make_held(5500), SAME),
        (make_held(5000), make_held(6000), SAME),  # the first may hold 5,499, and the second at most 6,000
        (make_held(5000), make_held(6500), LESS),
        (make_held(6500), make_held(5000), MORE),
        (make_held(10_000), make_held(10_000), SAME),
        (make_held(5000, GENERATOR_BOUND), make_held(9000), UNKNOWN),
        (make_held(5000), make_held(9000, GENERATOR_BOUND), LESS),
        (make_held(0), make_held(500), LESS),
        (make_held(0), make_held(0), UNKNOWN),
        (Held.of(make_run("1x1", replace(make_step(10_000), verdict=FAIL))), make_held(500), UNKNOWN),
        (Held.of(make_run("1x1", replace(make_step(10_000), verdict=FAIL))), make_held(10_000), LESS),
    ],
)
def test_comparison_ignores_differences_within_noise(first: Held, second: Held, expected: str) -> None:
    """A run holds more than another only if the other's miss is further below than the noise."""
    assert first.against(second) == expected


@pytest.mark.parametrize(
    ("first", "second", "least", "apart"),
    [(100, 109, 0, False), (100, 112, 0, True), (2, 4.9, 3, False), (2, 5, 3, True), (0, 0, 0, False)],
)
def test_difference_within_ten_percent_is_noise(first: float, second: float, least: float, apart: bool) -> None:
    """A difference of up to ten per cent, or below the resolution of the clocks, is noise."""
    assert differ(first, second, least) is apart
    assert differ(second, first, least) is apart


def test_end_of_run_is_explained_with_its_users() -> None:
    """The end of a run is explained with its users and its reason, if there is one."""
    assert make_held(500).why == "missed the SLO at 1,000 users: P95 1500 ms"
    assert "beyond 500 users was not measured: the generator was the limit at 1,000 users" in (
        make_held(500, GENERATOR_BOUND).why
    )
    assert make_held(10_000).why == "held to the top of the ladder"
    assert Held.of(make_run("1x1", replace(make_step(), verdict=PASS), done=False)).why == "interrupted"
