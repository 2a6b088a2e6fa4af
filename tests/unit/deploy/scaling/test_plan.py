"""Tests of projections from measured results."""

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
from tests.support.lab_results import make_demo_results, make_ladder, make_results, make_run, make_step


def a_result(*runs: Run, **conditions: Any) -> Results:
    return make_results(Path("results/one"), *runs, **conditions)


def test_projection_scales_replicas_linearly_with_noise() -> None:
    """A replica that held 1,000 users is needed a thousand times for a million, within the noise."""
    result = projection([a_result(make_ladder("2x0.5/512M", 2000))], 1_000_000)
    assert (result.best.replicas.low, result.best.replicas.high) == (910, 1112)
    assert (result.best.cpus.low, result.best.cpus.high) == (455, 556)
    assert result.best.memory == "455G to 556G"
    assert result.rps.low == pytest.approx(1_000_000 / 1.75)
    assert result.nginx is not None
    assert result.nginx.high == pytest.approx(1_000_000 / 1.75 * 40e-6)


def test_projection_lines_state_figures_and_assumptions() -> None:
    """The lines state that this is a projection, then the figures, then the assumptions."""
    lines = projection([a_result(make_ladder("2x0.5/512M", 2000))], 1_000_000).lines()
    assert lines[0] == "PROJECTION, not a measurement: what 1,000,000 users would need"
    text = "\n".join(lines)
    assert "replicas  910 to 1,112 of 0.5 CPUs, 512M and 1 worker each: 455 to 556 CPUs, memory 455G to 556G" in text
    assert "Nginx     22.9 CPUs, at 40 us a request" in text
    assert "in all    478 to 579 CPUs" in text
    assert "linear. The most that was measured is 2." in text
    assert "10% better and worse" in text
    assert "None" not in text


def test_projection_extrapolates_cpu_below_the_limit() -> None:
    """A run below its limit is extrapolated by CPU up to the headroom, and the projection says so."""
    steps = [make_step(users, cpus=users / 10_000) for users in (500, 1000)]
    result = projection([a_result(make_run("1x1/1G", *steps))], 900_000)
    assert (result.best.replicas.low, result.best.replicas.high) == (91, 112)
    assert any("1 of 1 runs met no limit of their own" in assumption for assumption in result.assumptions)
    strict = projection([a_result(make_run("1x1/1G", *steps), slo="P95 < 500 ms, CPU < 45 % of the limit")], 900_000)
    assert strict.best.replicas.low == 182


@pytest.mark.parametrize("used", [None, 0.0, 5.0])
def test_projection_is_never_below_held_users(used: float | None) -> None:
    """Unknown CPU, or CPU above the headroom, does not project fewer users than were held."""
    capacity = capacities(a_result(make_run("1x1/1G", make_step(1000, cpus=used))))
    assert [(entry.users, entry.by_cpu) for entry in capacity] == [(1000, False)]


def test_projection_ranges_cover_runs_of_each_size() -> None:
    """Each size has a range from its best run to its worst; the size with the fewest CPUs at worst comes first."""
    runs = [
        make_ladder("1x1/1G", 1000),
        make_ladder("2x1/1G", 1500),
        make_ladder("1x2/2G", 3000),
        make_ladder("1x1", 500),
    ]
    result = projection([a_result(*runs[:2]), a_result(*runs[2:])], 100_000)
    assert [(size.replica.name, size.runs) for size in result.sizes] == [("1x2/2G:2", 1), ("1x1/1G:1", 2), ("1x1:1", 1)]
    assert (result.sizes[1].replicas.low, result.sizes[1].replicas.high) == (91, 149)
    assert "no limit" in "\n".join(result.lines())


def test_results_with_other_conditions_are_left_out() -> None:
    """Only results with the model, machine, client and objective of the newest usable one count; commits may differ."""
    like = {"machine": "a CPU, 4 cores; commit def"}
    results = [
        a_result(make_ladder("1x1/1G", 9000), user="batch"),
        a_result(make_ladder("1x1/1G", 2000), machine="a CPU, 4 cores; commit abc"),
        a_result(make_ladder("1x1/1G", 1000), **like),
        a_result(make_ladder("1x1/1G", 0)),
    ]
    result = projection(results, 10_000)
    assert result.best.runs == 2
    assert any(
        "2 folders of results, without 1 that were made under other conditions" in assumption
        for assumption in result.assumptions
    )


@pytest.mark.parametrize(
    "runs", [[], [make_ladder("1x1", 0)], [make_ladder("1x1", 0, GENERATOR_BOUND)], [make_run("1x1")]]
)
def test_projection_without_passed_step_suggests_a_command(runs: list[Run]) -> None:
    """Without a passed step there is no projection, but a command that would make one possible."""
    for results in ([], [a_result(*runs)]):
        with pytest.raises(CommandError, match="make compare") as caught:
            projection(results, 1000)
        assert "\n" not in str(caught.value)


def test_missing_figures_are_stated_as_unknown() -> None:
    """Missing CPU of Nginx and missing memory are stated as unknown."""
    bare: dict[str, Any] = {"nginx_cpus": None, "memory": None, "cpus": None}
    text = "\n".join(projection([a_result(make_run("1x1", make_step(500, **bare)))], 1000).lines())
    assert "Nginx     not measured" in text
    assert "memory not measured" in text
    assert "there has to be" in text


def test_scalability_law_bounds_one_large_system() -> None:
    """With enough points, the scalability law gives the limit of a single growing system."""
    runs = [
        make_run(
            f"1x{n}/1G:{i + 1}",
            make_step(1000, rps=1000 * n / (1 + 0.2 * (n - 1))),
            replace(make_step(1500), verdict=FAIL),
        )
        for n in (1, 2, 4)
        for i in range(2)
    ]
    assert any(
        "no number of CPUs would do" in assumption for assumption in projection([a_result(*runs)], 10**7).assumptions
    )
    assert any("CPUs (95 %)" in assumption for assumption in projection([a_result(*runs)], 1500).assumptions)


def test_demo_projection_for_a_million_users_is_plausible(tmp_path: Path) -> None:
    """A million users need at least a hundred CPUs and less than one per thousand."""
    result = projection([make_demo_results(tmp_path)], 1_000_000)
    assert 100 < result.best.cpus.low < result.best.cpus.high < 1000


def test_range_arithmetic_combines_both_ends() -> None:
    """Sums and products of ranges combine both ends."""
    range_ = Range.over([3, 1, 2])
    assert (range_ * 2, range_ + Range(1, 1), range_ * range_) == (Range(2, 6), Range(2, 4), Range(1, 9))
    assert (str(Range(1000, 2500)), str(Range(2, 2))) == ("1,000 to 2,500", "2")
