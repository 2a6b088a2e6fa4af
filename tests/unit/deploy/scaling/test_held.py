"""What a run held, and when two runs differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploy.scaling.held import CUT, GENERATOR, LESS, MORE, SAME, SLO, TOP, UNKNOWN, Held, differ
from deploy.scaling.results import Run
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from tests.support.lab_results import a_ladder, a_run, a_step


def a_held(holds: int, then: str = FAIL, to: int = 10_000) -> Held:
    return Held.of(a_ladder("1x1/1G", holds, then, to))


@pytest.mark.parametrize(
    ("run", "users", "limit"),
    [
        (a_ladder("1x1", 3000), 3000, SLO),
        (a_ladder("1x1", 3000, GENERATOR_BOUND), 3000, GENERATOR),
        (a_ladder("1x1", 10_000), 10_000, TOP),
        (a_ladder("1x1", 0), 0, SLO),
        (a_run("1x1", a_step(500), done=False), 500, CUT),
        (a_run("1x1", ended="no replica started"), 0, CUT),
    ],
)
def test_run_limit_follows_from_how_it_ended(run: Run, users: int, limit: str) -> None:
    """A run holds what passed, and what ended it tells whether it may hold more."""
    held = Held.of(run)
    assert (held.users, held.limit, held.at_least == "") == (users, limit, limit == SLO)


def test_a_pass_above_a_miss_counts_for_nothing() -> None:
    """Steps above the first that missed are luck, in whatever order they came."""
    missed = replace(a_step(1000), verdict=FAIL)
    held = Held.of(a_run("1x1", a_step(1500), missed, a_step(500)))
    assert (held.users, held.missed and held.missed.users) == (500, 1000)


@pytest.mark.parametrize(
    ("above", "users", "limit"),
    [
        ([a_step(1500)], 1500, TOP),
        ([a_step(1500), replace(a_step(2000), verdict=FAIL)], 1500, SLO),
        ([a_step(1500), replace(a_step(2000), verdict=GENERATOR_BOUND)], 1500, GENERATOR),
        ([replace(a_step(1500), verdict=FAIL), a_step(2000)], 500, GENERATOR),
    ],
)
def test_a_generator_bound_step_is_no_verdict(above: list[Step], users: int, limit: str) -> None:
    """It neither holds nor misses: what passed above it counts, and what ended the run is what came after that."""
    bound = replace(a_step(1000), verdict=GENERATOR_BOUND)
    held = Held.of(a_run("1x1", a_step(500), bound, *above))
    assert (held.users, held.limit) == (users, limit)


def test_a_miss_and_a_pass_with_as_many_users() -> None:
    """Users that were held once and missed once are not held."""
    assert Held.of(a_run("1x1", a_step(500), a_step(1000), replace(a_step(1000), verdict=FAIL))).users == 500


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (a_held(5000), a_held(5000), SAME),
        (a_held(5000), a_held(5500), SAME),
        (a_held(5000), a_held(6000), SAME),  # it may hold 5,499, and the other no more than 6,000
        (a_held(5000), a_held(6500), LESS),
        (a_held(6500), a_held(5000), MORE),
        (a_held(10_000), a_held(10_000), SAME),
        (a_held(5000, GENERATOR_BOUND), a_held(9000), UNKNOWN),
        (a_held(5000), a_held(9000, GENERATOR_BOUND), LESS),
        (a_held(0), a_held(500), LESS),
        (a_held(0), a_held(0), UNKNOWN),
        (Held.of(a_run("1x1", replace(a_step(10_000), verdict=FAIL))), a_held(500), UNKNOWN),
        (Held.of(a_run("1x1", replace(a_step(10_000), verdict=FAIL))), a_held(10_000), LESS),
    ],
)
def test_comparison_ignores_differences_within_noise(one: Held, other: Held, said: str) -> None:
    """One holds more than another only where the other's miss is further below than the noise."""
    assert one.against(other) == said


@pytest.mark.parametrize(
    ("one", "other", "least", "apart"),
    [(100, 109, 0, False), (100, 112, 0, True), (2, 4.9, 3, False), (2, 5, 3, True), (0, 0, 0, False)],
)
def test_difference_within_ten_percent_is_noise(one: float, other: float, least: float, apart: bool) -> None:
    """Ten per cent is noise, and so is what the clocks cannot tell."""
    assert differ(one, other, least) is apart
    assert differ(other, one, least) is apart


def test_end_of_run_is_explained_with_its_users() -> None:
    """What ended a run is told with its users, and with its reason where there is one."""
    assert a_held(500).why == "missed the SLO at 1,000 users: P95 1500 ms"
    assert "beyond 500 users was not measured: the generator was the limit at 1,000 users" in (
        a_held(500, GENERATOR_BOUND).why
    )
    assert a_held(10_000).why == "held to the top of the ladder"
    assert Held.of(a_run("1x1", replace(a_step(), verdict=PASS), done=False)).why == "interrupted"
