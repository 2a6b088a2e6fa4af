"""Models with their compiled form, as `make compile` adds it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from deploy.models.compile import samples
from server.engines.packed import PackedForest
from server.engines.sklearn import SklearnEngine
from server.inference.rows import Rows
from server.model_store.mlmodel import MLmodel
from tests.support.models.forests import compile_once
from tests.support.models.table.case import Estimator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    from deploy.models.compile import companion


def add_forest(folder: Path, estimator: Estimator) -> Estimator:
    """Add the compiled form of an estimator to the model in ``folder``, and return the estimator."""
    schema = MLmodel.read(folder).schema
    assert schema is not None
    example = schema.parse({"instances": [estimator.data.iloc[0].to_dict()]}, 1).values

    def make_rows(forest: PackedForest | None) -> Rows:
        return samples.draw_rows(schema, schema.to_rows(example), forest)

    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        companion.add_forest(folder, SklearnEngine(estimator.fitted, schema), schema, make_rows, "rows drawn at random")
    return estimator
