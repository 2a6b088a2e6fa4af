"""Small models fitted in memory, which cover the special cases of column types and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from deploy.models.compile.packing import pack
from server.engines.sklearn import SklearnEngine
from server.inference.model import Engine, Model
from server.inference.schema import InputSchema
from server.inference.signature import schema_from_signature
from tests.support.models.forests import engine_of
from tests.support.models.served_models import served_model

ROWS = 60


def schema_of(
    columns: Mapping[str, str], optional: Sequence[str] = (), ranges: Mapping[str, Sequence[float]] | None = None
) -> InputSchema:
    inputs = [
        {"name": name, "type": column_type, "required": name not in optional} for name, column_type in columns.items()
    ]
    return schema_from_signature(inputs, ranges or {})


def model_of(name: str, schema: InputSchema, engine: Engine, example: list[Any]) -> Model:
    return served_model(
        engine,
        name=name,
        uri=f"models:/{name}@champion",
        schema=schema,
        example=dict(zip(schema.names, example, strict=True)),
    )


def covertype() -> Model:
    """Return a packed forest with integer columns that have ranges."""
    ranges = {"elevation": [1859, 3858], "slope": [0, 66], "area": [1, 4], "soil": [1, 40]}
    schema = schema_of(dict.fromkeys(ranges, "long"), ranges=ranges)
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(low, high, ROWS, endpoint=True) for low, high in ranges.values()])
    forest = RandomForestClassifier(n_estimators=5, random_state=0).fit(x.astype(float), x[:, 2])
    return model_of("covertype", schema, engine_of(pack(forest, schema), schema), [2596, 3, 1, 29])


def mixed() -> Model:
    """Return a model with a required and an optional column of each type, some with missing values or a range."""
    columns = {"colour": "string", "size": "double", "count": "integer", "flag": "boolean", "weight": "float"}
    optional = {"serial": "long", "note": "string", "depth": "double", "level": "integer", "wet": "boolean"}
    schema = schema_of({**columns, **optional}, tuple(optional), {"depth": [-1, 1.5]})
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.random(ROWS) for name in schema.names})
    frame["colour"], frame["note"] = ["red", "blue"] * (ROWS // 2), ["wet", None] * (ROWS // 2)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns_of = make_column_transformer((encoder, ["colour", "note"]), remainder="passthrough")
    pipeline = make_pipeline(columns_of, HistGradientBoostingClassifier(max_iter=3))
    pipeline.fit(frame, np.where(frame["size"] > 0.5, "large", "small"))
    example = ["red", 3.5, 2, True, 0.5, 5, "wet", 0.25, None, None]
    return model_of("mixed", schema, SklearnEngine(pipeline, schema), example)


def regressor() -> Model:
    """Return a regressor whose names must be escaped in URLs and JSON pointers."""
    schema = schema_of(dict.fromkeys(("x", "y/z", "ä ~b"), "double"))
    x = np.random.default_rng(0).random((ROWS, 3))
    engine = SklearnEngine(HistGradientBoostingRegressor(max_iter=3).fit(x, x.sum(axis=1)), schema)
    return model_of("old faithful é", schema, engine, [0.5, 1.0, -2.5])
