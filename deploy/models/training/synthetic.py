"""Synthetic rows in the form of Covertype, for machines that cannot download the real data set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deploy.models.training.form import FEATURES, MIN_ROWS_PER_CLASS, PUBLISHED_RANGES, Covertype

# One entry per class, 1 to 7, close to the means of the real data set, so that a forest learns about as much.
_SHARE = np.array([0.365, 0.487, 0.062, 0.005, 0.016, 0.030, 0.035])
_ELEVATION = np.array([3128, 2921, 2394, 2224, 2787, 2419, 3361])
_ROADWAYS = np.array([2614, 2429, 943, 914, 1349, 1037, 2738])
_FIRE_POINTS = np.array([2009, 2168, 910, 859, 1577, 1055, 2070])
_WILDERNESS = np.array([2, 2, 4, 4, 3, 4, 3])
_SOIL = np.array([25, 23, 8, 4, 27, 10, 37])


def generate(rows: int = 20_000, seed: int = 0) -> Covertype:
    """Return synthetic rows (at least 35, of all seven classes), the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    y = rng.choice(np.arange(1, 8), size=rows, p=_SHARE)
    # Rare classes need enough rows for a split, also in a small data set.
    y[: 7 * MIN_ROWS_PER_CLASS] = np.tile(np.arange(1, 8), MIN_ROWS_PER_CLASS)
    columns = _columns(rng, y - 1)
    x = np.column_stack([np.clip(np.rint(columns[name]), *PUBLISHED_RANGES[name]) for name in FEATURES])
    return Covertype(x.astype(np.float64), y.astype(np.int64), "synthetic")


def _columns(rng: np.random.Generator, class_index: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
    """Return one column per feature, not yet rounded or clipped; ``class_index`` counts the classes from 0."""
    n = len(class_index)
    hydrology = rng.gamma(1.6, 170, n)
    is_outlier = rng.random(n) < 0.2
    return {
        "elevation": rng.normal(_ELEVATION[class_index], 140),
        "aspect": rng.uniform(0, 360, n),
        "slope": rng.gamma(3.5, 4, n),
        "horizontal_distance_to_hydrology": hydrology,
        "vertical_distance_to_hydrology": hydrology * rng.normal(0.17, 0.15, n),
        "horizontal_distance_to_roadways": rng.gamma(2, _ROADWAYS[class_index] / 2),
        "hillshade_9am": rng.normal(212, 27, n),
        "hillshade_noon": rng.normal(223, 20, n),
        "hillshade_3pm": rng.normal(143, 38, n),
        "horizontal_distance_to_fire_points": rng.gamma(2, _FIRE_POINTS[class_index] / 2),
        "wilderness_area": np.where(is_outlier, rng.integers(1, 5, n), _WILDERNESS[class_index]),
        "soil_type": rng.normal(_SOIL[class_index], 4),
    }
