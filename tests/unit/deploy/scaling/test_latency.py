"""Tests of latency distributions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.scaling.latency import Latency

milliseconds = st.integers(0, 600_000).map(lambda tenths: tenths / 10)
PARTS = {0.5: Fraction(1, 2), 0.95: Fraction(95, 100), 0.99: Fraction(99, 100), 1.0: Fraction(1)}


@given(st.lists(milliseconds, min_size=1, max_size=300), st.sampled_from(list(PARTS)))
def test_quantile_is_the_nearest_rank_value(times: list[float], part: float) -> None:
    """A quantile is the value at its nearest rank, which occurred in the list."""
    assert Latency(Counter(times)).quantile(part) == sorted(times)[ceil(PARTS[part] * len(times)) - 1]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("count", [1, 19, 20, 21, 99, 100, 101, 200, 1000, 20_000, 1_000_000])
def test_rank_is_exact(count: int, part: float) -> None:
    """The rank is exact for any number of requests, without rounding errors."""
    latency = Latency({1.0: ceil(PARTS[part] * count)})
    latency.add(2.0, count - latency.total)
    assert latency.quantile(part) == 1.0


@given(st.lists(milliseconds, min_size=1, max_size=300))
def test_mean_weighs_every_request(times: list[float]) -> None:
    """The mean weighs each request equally."""
    latency = Latency()
    for ms in times:
        latency.add(ms)
    assert latency.total == len(times)
    assert latency.mean == pytest.approx(sum(times) / len(times))


def test_empty_latency_reports_zero() -> None:
    """Without requests, mean and quantiles are 0."""
    assert (Latency().total, Latency().mean, Latency().quantile(0.95)) == (0, 0.0, 0.0)
    assert Latency.sum([]).total == 0


@given(st.lists(st.lists(milliseconds, max_size=50), max_size=8))
def test_sum_equals_latency_of_all_requests(parts: list[list[float]]) -> None:
    """The sum of distributions equals that of all requests, and the parts do not change."""
    latencies = [Latency(Counter(part)) for part in parts]
    together, combined = Latency.sum(latencies), Latency(Counter(ms for part in parts for ms in part))
    assert together.total == combined.total
    assert together.mean == pytest.approx(combined.mean)
    assert [together.quantile(part) for part in PARTS] == [combined.quantile(part) for part in PARTS]
    together.add(1.0, 5)
    assert [latency.total for latency in latencies] == [len(part) for part in parts]


def test_counts_are_a_copy() -> None:
    """A distribution does not change with the counts that it was made of."""
    counts = {2.0: 3}
    Latency(counts).add(2.0)
    assert counts == {2.0: 3}
