"""What the OpenAPI document says holds, for thousands of requests that it allows and forbids, sent to the app itself.

CI sends few requests of one seed. Tens of thousands, of another:

    FUZZ_EXAMPLES=5000 FUZZ_SEED=1 .venv/bin/python -m pytest -s tests/test_openapi_fuzz.py

and through Nginx and Gunicorn the same with tests/e2e/test_openapi_fuzz.py. What they sent is printed (``-s``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import schemathesis
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from deploy.model.packing import pack
from server.app import create_app
from server.engines import Engine
from server.engines.sklearn import SklearnEngine
from server.model import Model
from server.schema import InputSchema
from server.settings import Settings
from tests.forests import engine_of
from tests.fuzzing import config, fuzz, operations

SETTINGS = Settings.from_env({"REPLICA": "one", "MAX_BODY_BYTES": "100000", "MAX_PENDING": "50"})
RNG = np.random.default_rng(0)
ROWS = 60


def schema_of(columns: Mapping[str, str], optional: Sequence[str] = (), **ranges: list[float]) -> InputSchema:
    inputs = [{"name": name, "type": kind, "required": name not in optional} for name, kind in columns.items()]
    return InputSchema.from_signature(inputs, ranges)


def model_of(name: str, schema: InputSchema, engine: Engine, example: list[Any]) -> Model:
    return Model(
        name=name,
        version="7",
        uri=f"models:/{name}@champion",
        digest="d" * 64,
        trained_on="synthetic",
        stale=None,
        schema=schema,
        engine=engine,
        example=dict(zip(schema.names, example, strict=True)),
    )


def covertype() -> Model:
    """Whole numbers with ranges, on the packed forest."""
    ranges: dict[str, list[float]] = {"elevation": [1859, 3858], "slope": [0, 66], "area": [1, 4], "soil": [1, 40]}
    schema = schema_of(dict.fromkeys(ranges, "long"), (), **ranges)
    x = np.column_stack([RNG.integers(int(low), int(high), ROWS) for low, high in ranges.values()])
    forest = RandomForestClassifier(n_estimators=5, random_state=0).fit(x.astype(float), x[:, 2])
    return model_of("covertype", schema, engine_of(pack(forest, schema), schema), [2596, 3, 1, 29])


def mixed() -> Model:
    """A column of every type, with and without a value, a range or a need to be there."""
    columns = {"colour": "string", "size": "double", "count": "integer", "flag": "boolean", "weight": "float"}
    optional = {"serial": "long", "note": "string", "depth": "double", "level": "integer", "wet": "boolean"}
    schema = schema_of({**columns, **optional}, tuple(optional), depth=[-1, 1.5])
    frame = pd.DataFrame({name: RNG.random(ROWS) for name in schema.names})
    frame["colour"], frame["note"] = ["red", "blue"] * (ROWS // 2), ["wet", None] * (ROWS // 2)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns_of = make_column_transformer((encoder, ["colour", "note"]), remainder="passthrough")
    pipeline = make_pipeline(columns_of, HistGradientBoostingClassifier(max_iter=3))
    pipeline.fit(frame, np.where(frame["size"] > 0.5, "large", "small"))
    example = ["red", 3.5, 2, True, 0.5, 5, "wet", 0.25, None, None]
    return model_of("mixed", schema, SklearnEngine(pipeline, schema), example)


def regressor() -> Model:
    """Numbers in, a number out; names that an address and a JSON pointer have to escape."""
    schema = schema_of(dict.fromkeys(("x", "y/z", "ä ~b"), "double"))
    x = RNG.random((ROWS, 3))
    engine = SklearnEngine(HistGradientBoostingRegressor(max_iter=3).fit(x, x.sum(axis=1)), schema)
    return model_of("old faithful é", schema, engine, [0.5, 1.0, -2.5])


@pytest.mark.parametrize("make", [covertype, mixed, regressor])
def test_the_document_holds(make: Callable[[], Model]) -> None:
    """Whatever is sent, the app answers as its document says: it takes what that allows, and fails at nothing."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(SETTINGS, make()), config=config())
    found = fuzz(schema)
    print(found)
    assert not found.failures
    assert found.predicted == operations(schema)
