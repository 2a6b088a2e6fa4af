"""Regressors with a column signature: the price of a flat by its size and rooms, which is 10 per unit of size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.models.table.case import Estimator, Table, save_estimator

FLATS = pd.DataFrame({"size": np.repeat([20.0, 50.0, 80.0], 20), "rooms": np.tile([1.0, 2.0, 3.0], 20)})
PRICES = 10 * FLATS["size"].to_numpy()
HEAT = FLATS["size"].to_numpy() / 10

ROWS = [{"size": 20.0, "rooms": 1}, {"size": 50.0, "rooms": 2.0}, {"size": 80, "rooms": 3.0}]
ANSWERS = [200.0, 500.0, 800.0]
TEXT_AS_NUMBER = {"size": "large", "rooms": 1.0}
NULL = {"size": 20.0, "rooms": None}
MISSING = {"size": 20.0}
OBJECT_AS_NUMBER = {"size": {"m2": 20.0}, "rooms": 1.0}

TABLE = Table()


@TABLE.case(ROWS, ANSWERS, [TEXT_AS_NUMBER, NULL, OBJECT_AS_NUMBER])
def linear_regression_in_skops(path: Path) -> Estimator:
    return save_estimator(path, LinearRegression().fit(FLATS, PRICES), FLATS, serialization_format="skops")


@TABLE.case(ROWS, ANSWERS, [NULL])
def ridge(path: Path) -> Estimator:
    return save_estimator(path, make_pipeline(StandardScaler(), Ridge(0.01)).fit(FLATS, PRICES), FLATS)


@TABLE.case(ROWS, ANSWERS, [MISSING])
def lasso(path: Path) -> Estimator:
    return save_estimator(path, Lasso(0.01).fit(FLATS, PRICES), FLATS)


@TABLE.case(ROWS, ANSWERS, [OBJECT_AS_NUMBER])
def histogram_boosting_regression(path: Path) -> Estimator:
    trees = HistGradientBoostingRegressor(max_iter=60, min_samples_leaf=5)
    return save_estimator(path, trees.fit(FLATS, PRICES), FLATS)


@TABLE.case(ROWS, [[200.0, 2.0], [500.0, 5.0], [800.0, 8.0]], [TEXT_AS_NUMBER, MISSING])
def several_values(path: Path) -> Estimator:
    """Save a regressor of two outputs: the price and the cost of heating."""
    outputs = np.column_stack([PRICES, HEAT])
    return save_estimator(path, LinearRegression().fit(FLATS, outputs), FLATS)
