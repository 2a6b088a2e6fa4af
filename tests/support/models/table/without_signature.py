"""Models that were logged without a signature, as in most tutorials: ``log_model(model, "model")``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from tests.support.models.table import arrays
from tests.support.models.table.case import Estimator, Table, save_estimator
from tests.support.models.table.classifiers import (
    FLOWERS,
    IRIS,
    LIST_AS_NUMBER,
    MISSING,
    NAMES,
    NUMBERS,
    SPECIES,
    TEXT_AS_NUMBER,
)

# Without a signature, MLflow takes records and tables as DataFrames, and everything else as arrays.
FRAME_FORMS = ("dataframe_records", "dataframe_split")

TABLE = Table()


@TABLE.case(FLOWERS, NAMES, [MISSING, TEXT_AS_NUMBER, LIST_AS_NUMBER], forms=FRAME_FORMS, slow=False)
def unsigned_frame(path: Path) -> Estimator:
    return save_estimator(
        path, RandomForestClassifier(10, random_state=0).fit(IRIS, SPECIES), IRIS, has_signature=False
    )


@TABLE.case(
    arrays.LISTS,
    [0, 1, 2],
    [arrays.SHORT, arrays.LONG, arrays.TEXT_AS_NUMBER, arrays.NULL, arrays.NESTED],
    names=arrays.FOUR,
    forms=arrays.ARRAY_FORMS,
    slow=False,
)
def unsigned_array(path: Path) -> Estimator:
    classifier = LogisticRegression(max_iter=500).fit(arrays.X, NUMBERS)
    return save_estimator(path, classifier, arrays.X, has_signature=False)


_MEASUREMENTS = (
    "Elevation", "Aspect", "Slope", "Horizontal_Distance_To_Hydrology", "Vertical_Distance_To_Hydrology",
    "Horizontal_Distance_To_Roadways", "Hillshade_9am", "Hillshade_Noon", "Hillshade_3pm",
    "Horizontal_Distance_To_Fire_Points",
)  # fmt: skip
ONE_HOT_COLUMNS = [
    *_MEASUREMENTS,
    *(f"Wilderness_Area{i}" for i in range(1, 5)),
    *(f"Soil_Type{i}" for i in range(1, 41)),
]


def one_hot_row(elevation: float, area: int, soil: int) -> dict[str, float]:
    """Return a row of 54 columns, of which 44 are 0 but for the area (1 to 4) and the soil (1 to 40)."""
    row = dict.fromkeys(ONE_HOT_COLUMNS, 0.0) | dict.fromkeys(_MEASUREMENTS, 100.0)
    return {**row, "Elevation": elevation, f"Wilderness_Area{area}": 1.0, f"Soil_Type{soil}": 1.0}


@TABLE.case(
    rows=[one_hot_row(2100, 4, 2), one_hot_row(2700, 1, 12), one_hot_row(3500, 3, 40)],
    answers=[3, 2, 7],
    bad=[
        {"Elevation": 2100.0},
        {**one_hot_row(2100, 4, 2), "Slope": ""},
    ],
    forms=FRAME_FORMS,
)
def unsigned_one_hot_columns(path: Path) -> Estimator:
    """Save a model as the workshops do: 54 one-hot columns of Covertype, fitted on a DataFrame."""
    rows = [
        one_hot_row(elevation, area, soil)
        for low, area, soils in ((2000, 4, range(1, 11)), (2500, 1, range(11, 21)), (3300, 3, range(31, 41)))
        for elevation in range(low, low + 300, 20)
        for soil in soils
    ]
    frame = pd.DataFrame(rows)
    labels = np.select([frame["Elevation"] < 2400, frame["Elevation"] < 3000], [3, 2], 7)
    forest = RandomForestClassifier(20, random_state=0, n_jobs=-1).fit(frame, labels)
    return save_estimator(path, forest, frame, has_signature=False)


@TABLE.case(
    rows=[{"colour": "red", "size": 3}, {"colour": "blue", "size": 3}, {"colour": "blue", "size": 9.5}],
    answers=["cherry", "plum", "melon"],
    bad=[{"colour": "red"}, {"colour": "violet", "size": 3}, {"colour": "red", "size": "large"}],
    forms=FRAME_FORMS,
)
def unsigned_strings_and_numbers(path: Path) -> Estimator:
    frame = pd.DataFrame({"colour": ["red", "blue"] * 10, "size": np.arange(20) // 2})
    steps = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    labels = np.where(frame["colour"] == "red", "cherry", np.where(frame["size"] < 5, "plum", "melon"))
    pipeline = make_pipeline(steps, DecisionTreeClassifier(random_state=0)).fit(frame, labels)
    return save_estimator(path, pipeline, frame, has_signature=False)


@TABLE.case(
    rows=["a good film", "such a bad film", "no idea"],
    answers=["yes", "no", "unsure"],
    bad=[5, None],
    names=("x0",),
    forms=arrays.ARRAY_FORMS,
)
def unsigned_texts(path: Path) -> Estimator:
    """Save a pipeline that was fitted on a list of texts, which has neither names nor a number of features."""
    texts = ["good", "good film", "bad", "bad film", "idea", "an idea"] * 4
    labels = np.array(["yes", "yes", "no", "no", "unsure", "unsure"] * 4)
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    return save_estimator(path, pipeline, texts, has_signature=False)
