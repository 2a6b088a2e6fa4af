"""Tests of fitting the Universal Scalability Law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.scaling.step import GENERATOR_BOUND
from deploy.scaling.usl import Point, fit, points, why_not
from tests.support.lab_results import make_ladder, make_results, make_run


def law(n: float, rate: float = 1000, contention: float = 0.05, coherence: float = 0.01) -> float:
    return rate * n / (1 + contention * (n - 1) + coherence * n * (n - 1))


def points_at(*across: float) -> list[Point]:
    return [Point(n, law(n), f"1x{n}") for n in across]


def test_fit_recovers_known_coefficients() -> None:
    """Points on a known law give its coefficients and its peak with certainty."""
    fitted = fit(points_at(1, 2, 3, 4, 8, 16))
    assert fitted is not None
    assert fitted.rate.value == pytest.approx(1000, rel=1e-3)
    assert fitted.contention.value == pytest.approx(0.05, rel=1e-3)
    assert fitted.coherence.value == pytest.approx(0.01, rel=1e-3)
    assert fitted.r2 == pytest.approx(1)
    assert fitted.peak == pytest.approx(np.sqrt(0.95 / 0.01), rel=1e-3)
    assert fitted.rate.low == pytest.approx(fitted.rate.high, rel=1e-3)
    assert fitted.at(4) == pytest.approx(law(4), rel=1e-3)
    assert fitted.need(law(4)) == pytest.approx((4, 4), rel=1e-2)
    assert fitted.need(1e9) == (np.inf, np.inf)
    assert "R² 1.000" in fitted.words


def test_noise_widens_the_confidence_intervals() -> None:
    """With noise, the confidence intervals contain the true coefficients and are reproducible."""
    random = np.random.default_rng(3)
    noisy = [Point(n, law(n) * random.uniform(0.95, 1.05), "") for n in (1, 1, 2, 2, 4, 4, 8, 8, 12, 12)]
    fitted, again = fit(noisy), fit(noisy)
    assert fitted is not None
    assert fitted == again
    for interval, true in ((fitted.rate, 1000), (fitted.contention, 0.05), (fitted.coherence, 0.01)):
        assert interval.low < true < interval.high
    low, high = fitted.band(8)
    assert low < law(8) < high


def test_linear_scaling_has_no_peak() -> None:
    """Linear scaling has no contention, no coherence and no peak, also with fractions of CPUs."""
    fitted = fit([Point(n, 100 * n, "") for n in (0.25, 0.5, 1, 1, 2, 4)])
    assert fitted is not None
    assert fitted.unit == 0.25
    assert fitted.peak is None
    assert "no peak" in fitted.words
    assert "sigma 0 " in fitted.words
    assert fitted.at(4) == pytest.approx(400)


@pytest.mark.parametrize("too_few", [[], points_at(1, 2, 3, 4, 5), points_at(1, 1, 1, 2, 2, 2)])
def test_too_few_points_are_refused_with_a_reason(too_few: list[Point]) -> None:
    """Five points, or six points at two numbers of CPUs, are too few, and the reason says so."""
    assert fit(too_few) is None
    assert f"there are {len(too_few)}" in why_not(too_few)


def test_only_topologies_with_measured_limits_count(tmp_path: Path) -> None:
    """A topology counts with its held maximum only if it missed the SLO after that; several results may count."""
    first_results = make_results(
        tmp_path, make_ladder("1x1/1G", 1000), make_ladder("2x1/1G", 10_000), make_run("4x1/1G")
    )
    second_results = make_results(
        tmp_path,
        make_ladder("1x1/1G", 2000),
        make_ladder("2x1/1G", 500, GENERATOR_BOUND),
        make_ladder("8x1", 0),
    )
    assert [(point.cpus, round(point.rps), point.topology) for point in points([first_results, second_results])] == [
        (1, 571, "1x1/1G:1"), (1, 1143, "1x1/1G:1"),
    ]  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.25, 0.5, 1, 2, 4, 8]), st.floats(0, 1e5)), min_size=6, max_size=8))
def test_any_points_have_a_finite_fit(pairs: list[tuple[float, float]]) -> None:
    """Any points have a finite fit with ordered intervals, or none."""
    fitted = fit([Point(n, rps, "") for n, rps in pairs], resamples=10)
    if fitted:
        assert np.isfinite(fitted.at(3))
        for interval in (fitted.rate, fitted.contention, fitted.coherence):
            assert 0 <= interval.low <= interval.high < np.inf
        assert fitted.words
