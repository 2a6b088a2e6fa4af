"""Projections from what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.scaling.capacity import capacities
from deploy.scaling.plan import projection
from deploy.scaling.results import Results, Run
from deploy.scaling.spread import Range
from deploy.scaling.step import FAIL, GENERATOR_BOUND
from tests.support.lab_results import a_demo, a_folder, a_ladder, a_run, a_step


def a_result(*runs: Run, **conditions: Any) -> Results:
    return a_folder(Path("results/one"), *runs, **conditions)


def test_projection_scales_replicas_linearly_with_noise() -> None:
    """A replica that held 1,000 users and missed 1,500 is needed a thousand times for a million, give or take noise."""
    found = projection([a_result(a_ladder("2x0.5/512M", 2000))], 1_000_000)
    assert (found.best.replicas.low, found.best.replicas.high) == (910, 1112)
    assert (found.best.cpus.low, found.best.cpus.high) == (455, 556)
    assert found.best.memory == "455G to 556G"
    assert found.rps.low == pytest.approx(1_000_000 / 1.75)
    assert found.nginx is not None
    assert found.nginx.high == pytest.approx(1_000_000 / 1.75 * 40e-6)


def test_projection_lines_state_figures_and_assumptions() -> None:
    """It says first what it is, then figures, then what they stand on."""
    lines = projection([a_result(a_ladder("2x0.5/512M", 2000))], 1_000_000).lines()
    assert lines[0] == "PROJECTION, not a measurement: what 1,000,000 users would need"
    text = "\n".join(lines)
    assert "replicas  910 to 1,112 of 0.5 CPUs, 512M and 1 worker each: 455 to 556 CPUs, memory 455G to 556G" in text
    assert "Nginx     22.9 CPUs, at 40 us a request" in text
    assert "in all    478 to 579 CPUs" in text
    assert "linear. The most that was measured is 2." in text
    assert "10% better and worse" in text
    assert "None" not in text


def test_projection_extrapolates_cpu_below_the_limit() -> None:
    """What was not at its limit is taken for what its CPU would do, up to the objective's share, and that is said."""
    steps = [a_step(users, cpus=users / 10_000) for users in (500, 1000)]
    found = projection([a_result(a_run("1x1/1G", *steps))], 900_000)
    assert (found.best.replicas.low, found.best.replicas.high) == (91, 112)
    assert any("1 of 1 runs met no limit of their own" in one for one in found.assumptions)
    strict = projection([a_result(a_run("1x1/1G", *steps), slo="P95 < 500 ms, CPU < 45 % of the limit")], 900_000)
    assert strict.best.replicas.low == 182


@pytest.mark.parametrize("used", [None, 0.0, 5.0])
def test_never_less_than_was_held(used: float | None) -> None:
    """CPU that was not read, or that is beyond its share already, does not undo what was held."""
    capacity = capacities(a_result(a_run("1x1/1G", a_step(1000, cpus=used))))
    assert [(one.users, one.by_cpu) for one in capacity] == [(1000, False)]


def test_projection_ranges_cover_runs_of_each_size() -> None:
    """Each size has its range, from its best run to its worst; the one with the fewest CPUs at worst leads."""
    runs = [a_ladder("1x1/1G", 1000), a_ladder("2x1/1G", 1500), a_ladder("1x2/2G", 3000), a_ladder("1x1", 500)]
    found = projection([a_result(*runs[:2]), a_result(*runs[2:])], 100_000)
    assert [(size.replica.name, size.runs) for size in found.sizes] == [("1x2/2G:2", 1), ("1x1/1G:1", 2), ("1x1:1", 1)]
    assert (found.sizes[1].replicas.low, found.sizes[1].replicas.high) == (91, 149)
    assert "no limit" in "\n".join(found.lines())


def test_other_conditions_are_left_out() -> None:
    """Only results like the newest usable one count: same model, machine, user and objective; commits may differ."""
    like = {"machine": "a CPU, 4 cores; commit def"}
    results = [
        a_result(a_ladder("1x1/1G", 9000), user="batch"),
        a_result(a_ladder("1x1/1G", 2000), machine="a CPU, 4 cores; commit abc"),
        a_result(a_ladder("1x1/1G", 1000), **like),
        a_result(a_ladder("1x1/1G", 0)),
    ]
    found = projection(results, 10_000)
    assert found.best.runs == 2
    assert any(
        "2 folders of results, without 1 that were made under other conditions" in one for one in found.assumptions
    )


@pytest.mark.parametrize("runs", [[], [a_ladder("1x1", 0)], [a_ladder("1x1", 0, GENERATOR_BOUND)], [a_run("1x1")]])
def test_projection_without_passed_step_suggests_a_command(runs: list[Run]) -> None:
    """Without a step that held there is no projection, but the command that makes one possible."""
    for results in ([], [a_result(*runs)]):
        with pytest.raises(CommandError, match="make compare") as caught:
            projection(results, 1000)
        assert "\n" not in str(caught.value)


def test_missing_figures_are_stated_as_unknown() -> None:
    """Without Nginx's CPU, and without memory, it says so instead of a figure."""
    bare: dict[str, Any] = {"nginx_cpus": None, "memory": None, "cpus": None}
    text = "\n".join(projection([a_result(a_run("1x1", a_step(500, **bare)))], 1000).lines())
    assert "Nginx     not measured" in text
    assert "memory not measured" in text
    assert "there has to be" in text


def test_scalability_law_bounds_one_large_system() -> None:
    """Where the law of scalability has points enough, it tells what one ever larger system would take."""
    runs = [
        a_run(
            f"1x{n}/1G:{i + 1}", a_step(1000, rps=1000 * n / (1 + 0.2 * (n - 1))), replace(a_step(1500), verdict=FAIL)
        )
        for n in (1, 2, 4)
        for i in range(2)
    ]
    assert any("no number of CPUs would do" in one for one in projection([a_result(*runs)], 10**7).assumptions)
    assert any("CPUs (95 %)" in one for one in projection([a_result(*runs)], 1500).assumptions)


def test_demo_projection_for_a_million_users_is_plausible(tmp_path: Path) -> None:
    """A million users need a hundred CPUs or more, and less than one for each thousand."""
    found = projection([a_demo(tmp_path)], 1_000_000)
    assert 100 < found.best.cpus.low < found.best.cpus.high < 1000


def test_range_arithmetic_combines_both_ends() -> None:
    """Sums and products have their ends from both."""
    one = Range.over([3, 1, 2])
    assert (one * 2, one + Range(1, 1), one * one) == (Range(2, 6), Range(2, 4), Range(1, 9))
    assert (str(Range(1000, 2500)), str(Range(2, 2))) == ("1,000 to 2,500", "2")
