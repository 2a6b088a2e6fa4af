"""The Universal Scalability Law: X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1)).

Neil Gunther, "Guerrilla Capacity Planning", Springer 2007, chapter 4. Sigma is the part of the work that queues for
something shared (contention), kappa what each pair spends on agreeing (coherence); with kappa above 0 there is a peak.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit  # type: ignore[import-untyped]

from deploy.scaling.figures import number
from deploy.scaling.held import SLO, held
from deploy.scaling.results import Results

LEAST_POINTS, LEAST_DIFFERENT = 6, 3
_NOTHING = 1e-6  # a coefficient below this is the solver's zero


@dataclass(frozen=True, slots=True)
class Point:
    """The most requests per second that a topology held, on so many CPUs."""

    cpus: float
    rps: float
    topology: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A coefficient with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_shown(self.value)} (95 %: {_shown(self.low)} to {_shown(self.high)})"


@dataclass(frozen=True, slots=True)
class Fit:
    """N counts units of CPU: whole CPUs, or the least that was measured where that is less than one.

    The intervals are percentiles of a bootstrap over the residuals, whose ``samples`` are kept.
    """

    points: Sequence[Point]
    unit: float
    rate: Interval
    contention: Interval
    coherence: Interval
    r2: float
    samples: Any = field(repr=False, compare=False)

    def at(self, cpus: float) -> float:
        """Requests per second on so many CPUs."""
        return float(_law(cpus / self.unit, self.rate.value, self.contention.value, self.coherence.value))

    def band(self, cpus: float) -> tuple[float, float]:
        """Where 95 % of the bootstrap's curves are."""
        low, high = np.percentile(_law(cpus / self.unit, *self.samples.T), [2.5, 97.5])
        return float(low), float(high)

    def need(self, rps: float) -> tuple[float, float]:
        """The CPUs that first do for so many requests, between which 95 % of the curves are; infinity where none do."""
        rate, contention, coherence = self.samples.T
        linear = rate - rps * (contention - coherence)  # rps * law's denominator = rate * n, solved for the smaller n
        root = np.sqrt(np.maximum(linear**2 - 4 * rps**2 * coherence * (1 - contention), 0))
        within = (linear > 0) & (linear**2 >= 4 * rps**2 * coherence * (1 - contention))
        n = np.where(within, 2 * rps * (1 - contention) / np.where(within, linear + root, 1), np.inf)
        low, high = np.percentile(n, [2.5, 97.5], method="nearest")
        return float(low * self.unit), float(high * self.unit)

    @property
    def peak(self) -> float | None:
        """The CPUs past which more of them hold less; None where the law knows no such point."""
        if self.coherence.value < _NOTHING:
            return None
        return self.unit * max(1.0, sqrt((1 - self.contention.value) / self.coherence.value))

    @property
    def words(self) -> str:
        """All of it, for people."""
        most = max(point.cpus for point in self.points)
        peak = "no peak" if self.peak is None else f"a peak at {self.peak:.3g} CPUs"
        beyond = f", beyond the {most:g} measured" if self.peak and self.peak > most else ""
        return (
            f"Universal Scalability Law over {len(self.points)} points, N in units of {self.unit:g} CPU: "
            f"lambda {self.rate} requests/s, contention sigma {self.contention}, coherence kappa {self.coherence}, "
            f"R² {self.r2:.3f}, {peak}{beyond}. Intervals: bootstrap over residuals, {len(self.samples)} resamples."
        )


def points(series: Sequence[Results]) -> list[Point]:
    """Of every run whose limit was found: where no step missed the SLO, the most that it holds is not known."""
    found = [one for results in series for one in held(results) if one.limit == SLO and one.peak]
    return [Point(one.topology.total_cpus, one.peak.rps, one.topology.name) for one in found if one.peak]


def why_not(found: Sequence[Point]) -> str:
    """Why these points have no fit; empty where they may have one."""
    different = len({point.cpus for point in found})
    if len(found) >= LEAST_POINTS and different >= LEAST_DIFFERENT:
        return ""
    return (
        f"No fit of the Universal Scalability Law: it needs {LEAST_POINTS} topologies whose limit was found, with "
        f"{LEAST_DIFFERENT} different totals of CPUs; there are {len(found)}, with {different}."
    )


def fit(found: Sequence[Point], resamples: int = 400) -> Fit | None:
    """The law through these points; None where they are too few, or it runs through none of them."""
    if why_not(found):
        return None
    unit = min(1.0, *(point.cpus for point in found))
    n, rps = np.array([point.cpus for point in found]) / unit, np.array([point.rps for point in found])
    best = _coefficients(n, rps, (max(float((rps / n).max()), 1e-9), 0.05, 0.001))
    if best is None:
        return None
    samples = _bootstrap(n, rps, best, resamples)
    rate, contention, coherence = (
        Interval(float(value), *(float(end) for end in np.percentile(column, [2.5, 97.5])))
        for value, column in zip(best, samples.T, strict=True)
    )
    spread = float(((rps - rps.mean()) ** 2).sum())
    r2 = 1 - float(((rps - _law(n, *best)) ** 2).sum()) / spread if spread else 0.0
    return Fit(tuple(found), unit, rate, contention, coherence, r2, samples)


def _shown(value: float) -> str:
    return number(value) if value >= _NOTHING else "0"


def _law(n: Any, rate: Any, contention: Any, coherence: Any) -> Any:
    return rate * n / (1 + contention * (n - 1) + coherence * n * (n - 1))


def _coefficients(n: Any, rps: Any, start: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # about its covariance, which is not asked for
        try:
            best, _ = curve_fit(_law, n, rps, start, bounds=((0, 0, 0), (np.inf, 1, np.inf)), x_scale="jac")
        except RuntimeError:  # it found no minimum
            return None
    return best


def _bootstrap(n: Any, rps: Any, best: Any, resamples: int) -> Any:
    """Fit the curve plus its own residuals drawn anew, widened for what the coefficients took of them."""
    curve, random = _law(n, *best), np.random.default_rng(0)
    residuals = (rps - curve) * sqrt(len(n) / (len(n) - len(best)))
    drawn = (np.maximum(curve + random.choice(residuals, len(n)), 0) for _ in range(resamples))
    return np.array([one for sample in drawn if (one := _coefficients(n, sample, best)) is not None] or [best])
