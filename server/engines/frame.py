"""Conversion of rows to the DataFrame that a model was fitted on: names, order and types of its signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from server.inference.columns import Column
from server.inference.rows import Rows
from server.inference.schema import InputSchema

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# The types that MLflow's schema enforcement casts columns to (mlflow.types.DataType).
_DTYPES = {"boolean": np.bool_, "integer": np.int32, "long": np.int64, "float": np.float32, "double": np.float64}


def to_frame(rows: Rows, schema: InputSchema) -> pd.DataFrame:
    """Return the rows as a DataFrame. A column with missing optional numbers stays float64, with NaN."""
    # Imported here, because only models fitted on DataFrames need pandas in memory.
    import pandas as pd  # noqa: PLC0415

    numbers, objects = iter(rows.numbers.T), iter(rows.objects.T)
    data = {
        column.name: next(objects) if column.is_string else _cast(column, next(numbers)) for column in schema.columns
    }
    return pd.DataFrame(data)


def _cast(column: Column, values: NDArray[np.float64]) -> NDArray[np.generic]:
    if column.type == "double" or (not column.required and np.isnan(values).any()):
        return values
    return values.astype(_DTYPES[column.type])
