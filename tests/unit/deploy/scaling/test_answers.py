"""Tests of the answers to the four questions about scaling, which must not claim more than was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.scaling.answers import answers, headline
from deploy.scaling.results import Run
from deploy.scaling.step import FAIL, GENERATOR_BOUND
from tests.support.lab_results import make_demo_results, make_ladder, make_results, make_run, make_step


def answer_texts(*runs: Run) -> list[str]:
    return [answer.text for answer in answers(make_results(Path(), *runs))]


def headline_of(*runs: Run) -> str:
    return headline(make_results(Path(), *runs))


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([], "nothing was measured"),
        ([make_run("1x1", done=False)], "nothing was measured"),
        ([make_ladder("1x1", 0), make_ladder("2x1", 0)], "no topology held the SLO at any number of users"),
        ([make_ladder("1x1", 0, GENERATOR_BOUND)], "every run was generator-bound from its first step"),
        ([make_ladder("1x1", 0), make_ladder("2x1", 0, GENERATOR_BOUND)], "measured; of 2x1:1 it is not known"),
    ],
)
def test_result_without_held_users_gives_reasons(runs: list[Run], reason: str) -> None:
    """If no topology held any users, each answer is the reason instead."""
    for text in answer_texts(*runs):
        assert text.startswith("Not answered: ")
        assert reason in text
    assert reason[1:] in headline_of(*runs)


def test_equal_topologies_have_no_winner() -> None:
    """If all topologies held the maximum, the answers name no winner and say that less was not tried."""
    least, less, most, equal_totals = answer_texts(
        make_ladder("1x2/2G", 10_000), make_ladder("2x1/1G", 10_000), make_ladder("2x0.5/512M", 10_000)
    )
    assert "All 3 topologies held at least 10,000 users, so the least that was measured is 1 CPU and 1G" in least
    assert least.endswith("Less was not tried.")
    assert less.startswith("Yes, for the 10,000 users that were measured: 2x0.5/512M:1")
    assert "All 3 held at least 5,714 requests/s, which is no difference" in most
    assert "all: held to the top of the ladder" in most
    assert equal_totals.startswith("With 2 CPUs and 2G, no difference in users held")
    assert "differed no more than the noise" in equal_totals


def test_difference_beyond_noise_names_the_better() -> None:
    """A difference beyond the noise is stated with the figures of both topologies."""
    least, less, most, equal_totals = answer_texts(
        make_ladder("1x2/2G", 8000),
        make_ladder("2x1/1G", 5000),
        make_ladder("1x1/1G", 2000),
        make_ladder("2x0.5/512M", 1500),
    )
    assert least.startswith("2 CPUs and 2G (1x2/2G:2) held 8,000 users, the most of all 4 topologies.")
    assert "Of the 2 with less (CPU first), the most was 2,000 users, by 1x1/1G:1." in least
    assert less == (
        "No: several replicas with less in all held fewer users. The nearest was 2x0.5/512M:1 (1 CPU and 1G in all) "
        "with 1,500 users, against 1x2/2G:2 (2 CPUs and 2G in all) with 8,000 users."
    )
    assert most.startswith("In requests/s: 1x2/2G:2 4,571 at 8,000 users; 2x1/1G:1 2,857 at 5,000 users;")
    assert "At least" not in most
    assert equal_totals.startswith(
        "With 2 CPUs and 2G, one replica held more: 1x2/2G:2 held 8,000 users, 2x1/1G:1 5,000 users."
    )


def test_several_replicas_can_win_with_fewer_resources() -> None:
    """Several replicas may win with fewer or equal resources."""
    _, less, _, equal_totals = answer_texts(
        make_ladder("1x2/2G", 4000), make_ladder("2x1/1G", 8000), make_ladder("2x0.75/1G", 6000)
    )
    assert less.startswith("Yes: 2x0.75/1G:1 (1.5 CPUs and 2G in all) held 6,000 users, more than 1x2/2G:2")
    assert equal_totals.startswith("With 2 CPUs and 2G, several replicas held more")


def test_saving_matched_by_a_small_replica_is_stated() -> None:
    """If one small replica holds as many users as several, the saving is not attributed to the several."""
    _, less, *_ = answer_texts(
        make_ladder("1x2/2G", 4000), make_ladder("2x0.5/512M", 4000), make_ladder("1x1/1G", 4000)
    )
    assert "But it is not the replicas that save it: 1x1/1G:1 (1 CPU and 1G in all) held 4,000 users too." in less


def test_nothing_is_claimed_beyond_a_generator_bound_step() -> None:
    """No topology is said to hold more or fewer users beyond a generator-bound step."""
    _, less, most, equal_totals = answer_texts(
        make_ladder("1x2/2G", 8000),
        make_ladder("2x1/1G", 5000, GENERATOR_BOUND),
        make_ladder("2x0.5/512M", 3000, GENERATOR_BOUND),
    )
    assert less.startswith("Not answered: ")
    assert "at least 2,857 at 5,000 users" in most
    assert "what it holds beyond 5,000 users was not measured: the generator was the limit at 5,500 users" in most
    assert equal_totals.startswith("With 2 CPUs and 2G, not answered: ")


def test_noise_is_no_difference() -> None:
    """A few milliseconds, one step of users or a few per cent of CPU are no difference, but doubled memory is one."""
    equal_totals = answer_texts(make_ladder("1x2/2G", 5000), make_ladder("2x1/1G", 5500, locust_p95=14.5))[3]
    assert "no difference in users held" in equal_totals
    assert equal_totals.endswith("at 5,000 users: P95, CPU and memory differed no more than the noise.")
    equal_totals = answer_texts(
        make_ladder("1x2/2G", 5000), make_ladder("2x1/1G", 5500, memory=360 << 20, cpus=9.0, locust_p95=40.0)
    )[3]
    assert (
        "at 5,000 users: P95 12 against 40 ms, 0.814 CPUs against 9 CPUs used and memory 180M against 360M"
        in equal_totals
    )


def test_unmeasured_questions_have_no_answer() -> None:
    """A question whose topologies were not measured is not answered."""
    least, less, most, equal_totals = answer_texts(make_ladder("1x1", 1000))
    assert least.startswith("Only one topology was measured: 1 CPU and no memory limit (1x1:1) held 1,000 users.")
    assert less.startswith("Not answered: ")
    assert most == "In requests/s: 1x1:1 571 at 1,000 users."
    assert equal_totals.startswith("Not answered: ")


def test_failed_smaller_start_counts_as_tried() -> None:
    """A smaller topology that did not start counts as tried."""
    least = answer_texts(make_run("1x1/512M", make_step(10_000)), make_run("1x1/256M", ended="out of memory"))[0]
    assert "none held the SLO at all, but the limit of 1x1/256M:1 was not found (out of memory)" in least


def test_most_requests_are_not_most_users() -> None:
    """The topology with the most requests may hold fewer users than the one with the most users."""
    run = make_run("1x1", make_step(500, rps=300.0), make_step(1000, rps=290.0), replace(make_step(1500), verdict=FAIL))
    assert answer_texts(run)[2] == "In requests/s: 1x1:1 300 at 500 users."


def test_missing_figures_are_omitted() -> None:
    """Answers omit CPU and memory if they were not measured."""
    bare: dict[str, Any] = {
        "cpus": None,
        "memory": None,
        "cpu_percent": None,
        "memory_percent": None,
        "nginx_cpus": None,
    }
    texts = answer_texts(make_ladder("1x2/2G", 5000, **bare), make_ladder("2x1/1G", 5000, **bare))
    assert "used" not in texts[0]
    assert "None" not in " ".join(texts)


def test_headline_names_the_topology_with_most_users() -> None:
    """The headline is one sentence on the topology with the most users, with names if there are few."""
    assert headline_of(make_ladder("1x1", 1000)) == "1x1:1 held 1,000 users, at 571 requests/s with a P95 of 12 ms."
    assert headline_of(make_ladder("1x1", 1000), make_ladder("1x2", 1000)).startswith(
        "Both topologies held 1,000 users"
    )
    assert headline_of(make_ladder("1x1", 500), make_ladder("1x2", 1000)).startswith("1x2:2 held the most: 1,000 users")
    runs = [make_ladder(f"{n}x1", 1000) for n in range(1, 7)]
    assert headline_of(make_ladder("1x2", 500), *runs).startswith("6 of 7 topologies held the most: 1,000 users")


def test_answers_for_the_demo_are_short(tmp_path: Path) -> None:
    """Each answer for five topologies is at most a few sentences."""
    for answer in answers(make_demo_results(tmp_path)):
        assert 1 <= answer.text.replace(". ", ".\n").count("\n") + 1 <= 4
