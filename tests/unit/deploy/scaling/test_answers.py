"""The four answers: what was measured, and no further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.scaling.answers import answers, headline
from deploy.scaling.results import Run
from deploy.scaling.step import FAIL, GENERATOR_BOUND
from tests.support.lab_results import a_demo, a_folder, a_ladder, a_run, a_step


def told(*runs: Run) -> list[str]:
    return [answer.text for answer in answers(a_folder(Path(), *runs))]


def lead(*runs: Run) -> str:
    return headline(a_folder(Path(), *runs))


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([], "nothing was measured"),
        ([a_run("1x1", done=False)], "nothing was measured"),
        ([a_ladder("1x1", 0), a_ladder("2x1", 0)], "no topology held the SLO at any number of users"),
        ([a_ladder("1x1", 0, GENERATOR_BOUND)], "every run was generator-bound from its first step"),
        ([a_ladder("1x1", 0), a_ladder("2x1", 0, GENERATOR_BOUND)], "measured; of 2x1:1 it is not known"),
    ],
)
def test_result_without_held_users_gives_reasons(runs: list[Run], why: str) -> None:
    """Where nothing was held there is no answer, but the reason."""
    for text in told(*runs):
        assert text.startswith("Not answered: ")
        assert why in text
    assert why[1:] in lead(*runs)


def test_equal_topologies_have_no_winner() -> None:
    """Where all held everything, the least that was measured is no least, and nobody beats anybody."""
    least, less, most, one = told(
        a_ladder("1x2/2G", 10_000), a_ladder("2x1/1G", 10_000), a_ladder("2x0.5/512M", 10_000)
    )
    assert "All 3 topologies held at least 10,000 users, so the least that was measured is 1 CPU and 1G" in least
    assert least.endswith("Less was not tried.")
    assert less.startswith("Yes, for the 10,000 users that were measured: 2x0.5/512M:1")
    assert "All 3 held at least 5,714 requests/s, which is no difference" in most
    assert "all: held to the top of the ladder" in most
    assert one.startswith("With 2 CPUs and 2G, no difference in users held")
    assert "differed no more than the noise" in one


def test_difference_beyond_noise_names_the_better() -> None:
    """A difference beyond the noise is told, with both figures and what is not known of them."""
    least, less, most, one = told(
        a_ladder("1x2/2G", 8000), a_ladder("2x1/1G", 5000), a_ladder("1x1/1G", 2000), a_ladder("2x0.5/512M", 1500)
    )
    assert least.startswith("2 CPUs and 2G (1x2/2G:2) held 8,000 users, the most of all 4 topologies.")
    assert "Of the 2 with less (CPU first), the most was 2,000 users, by 1x1/1G:1." in least
    assert less == (
        "No: several replicas with less in all held fewer users. The nearest was 2x0.5/512M:1 (1 CPU and 1G in all) "
        "with 1,500 users, against 1x2/2G:2 (2 CPUs and 2G in all) with 8,000 users."
    )
    assert most.startswith("In requests/s: 1x2/2G:2 4,571 at 8,000 users; 2x1/1G:1 2,857 at 5,000 users;")
    assert "At least" not in most
    assert one.startswith("With 2 CPUs and 2G, one replica held more: 1x2/2G:2 held 8,000 users, 2x1/1G:1 5,000 users.")


def test_several_replicas_can_win_with_fewer_resources() -> None:
    """Several replicas may win, with less or with the same."""
    _, less, _, one = told(a_ladder("1x2/2G", 4000), a_ladder("2x1/1G", 8000), a_ladder("2x0.75/1G", 6000))
    assert less.startswith("Yes: 2x0.75/1G:1 (1.5 CPUs and 2G in all) held 6,000 users, more than 1x2/2G:2")
    assert one.startswith("With 2 CPUs and 2G, several replicas held more")


def test_saving_matched_by_a_small_replica_is_stated() -> None:
    """Where one small replica does as well as several, the saving is not theirs."""
    _, less, *_ = told(a_ladder("1x2/2G", 4000), a_ladder("2x0.5/512M", 4000), a_ladder("1x1/1G", 4000))
    assert "But it is not the replicas that save it: 1x1/1G:1 (1 CPU and 1G in all) held 4,000 users too." in less


def test_generator_ends_what_is_known() -> None:
    """Beyond a generator-bound step nothing is said: neither that one holds more, nor that it does not."""
    _, less, most, one = told(
        a_ladder("1x2/2G", 8000),
        a_ladder("2x1/1G", 5000, GENERATOR_BOUND),
        a_ladder("2x0.5/512M", 3000, GENERATOR_BOUND),
    )
    assert less.startswith("Not answered: ")
    assert "at least 2,857 at 5,000 users" in most
    assert "what it holds beyond 5,000 users was not measured: the generator was the limit at 5,500 users" in most
    assert one.startswith("With 2 CPUs and 2G, not answered: ")


def test_noise_is_no_difference() -> None:
    """A few milliseconds, a rung, or a few per cent of CPU are none; memory that doubles is one."""
    one = told(a_ladder("1x2/2G", 5000), a_ladder("2x1/1G", 5500, locust_p95=14.5))[3]
    assert "no difference in users held" in one
    assert one.endswith("at 5,000 users: P95, CPU and memory differed no more than the noise.")
    one = told(a_ladder("1x2/2G", 5000), a_ladder("2x1/1G", 5500, memory=360 << 20, cpus=9.0, locust_p95=40.0))[3]
    assert "at 5,000 users: P95 12 against 40 ms, 0.814 CPUs against 9 CPUs used and memory 180M against 360M" in one


def test_unmeasured_questions_have_no_answer() -> None:
    """Questions whose topologies were not measured are not answered."""
    least, less, most, one = told(a_ladder("1x1", 1000))
    assert least.startswith("Only one topology was measured: 1 CPU and no memory limit (1x1:1) held 1,000 users.")
    assert less.startswith("Not answered: ")
    assert most == "In requests/s: 1x1:1 571 at 1,000 users."
    assert one.startswith("Not answered: ")


def test_failed_smaller_start_counts_as_tried() -> None:
    """Less that did not start was tried."""
    least = told(a_run("1x1/512M", a_step(10_000)), a_run("1x1/256M", ended="out of memory"))[0]
    assert "none held the SLO at all, but the limit of 1x1/256M:1 was not found (out of memory)" in least


def test_most_requests_are_not_most_users() -> None:
    """The most requests may come with fewer users than the most."""
    run = a_run("1x1", a_step(500, rps=300.0), a_step(1000, rps=290.0), replace(a_step(1500), verdict=FAIL))
    assert told(run)[2] == "In requests/s: 1x1:1 300 at 500 users."


def test_figures_may_be_missing() -> None:
    """Without CPU and memory nothing is said of them."""
    bare: dict[str, Any] = {
        "cpus": None,
        "memory": None,
        "cpu_percent": None,
        "memory_percent": None,
        "nginx_cpus": None,
    }
    texts = told(a_ladder("1x2/2G", 5000, **bare), a_ladder("2x1/1G", 5000, **bare))
    assert "used" not in texts[0]
    assert "None" not in " ".join(texts)


def test_headline_names_the_topology_with_most_users() -> None:
    """One sentence says what held the most, by name while the names are few."""
    assert lead(a_ladder("1x1", 1000)) == "1x1:1 held 1,000 users, at 571 requests/s with a P95 of 12 ms."
    assert lead(a_ladder("1x1", 1000), a_ladder("1x2", 1000)).startswith("Both topologies held 1,000 users")
    assert lead(a_ladder("1x1", 500), a_ladder("1x2", 1000)).startswith("1x2:2 held the most: 1,000 users")
    many = [a_ladder(f"{n}x1", 1000) for n in range(1, 7)]
    assert lead(a_ladder("1x2", 500), *many).startswith("6 of 7 topologies held the most: 1,000 users")


def test_demo_is_short(tmp_path: Path) -> None:
    """Each answer to five topologies fits into a few sentences."""
    for answer in answers(a_demo(tmp_path)):
        assert 1 <= answer.text.replace(". ", ".\n").count("\n") + 1 <= 4
