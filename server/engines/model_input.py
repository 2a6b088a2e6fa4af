"""Conversion of rows to the input that a model takes: a DataFrame, an array, a dict of arrays or a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from server.inference.columns import Column
from server.inference.rows import Rows
from server.inference.schema import Form, InputSchema

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# The types that MLflow's schema enforcement casts columns to (mlflow.types.DataType).
_DTYPES = {"boolean": np.bool_, "integer": np.int32, "long": np.int64, "float": np.float32, "double": np.float64}
# The types of Python for the values of a type hint; all other numbers are floats.
_PYTHON_TYPES = {"boolean": bool, "integer": int, "long": int}


def to_model_input(rows: Rows, schema: InputSchema) -> Any:
    """Return the rows in the form that the schema says, with the names, order and types of its columns."""
    if schema.form is Form.FRAME:
        return to_frame(rows, schema)
    if schema.form is Form.ARRAY:
        return to_array(rows, schema)
    if schema.form is Form.TENSORS:
        return dict(zip(schema.names, _columns(rows, schema), strict=True))
    if schema.form is Form.LIST:
        return _to_list(rows, schema.columns[0])
    return _from_records(rows.objects[:, 0].tolist())


def to_frame(rows: Rows, schema: InputSchema) -> pd.DataFrame:
    """Return the rows as a DataFrame. A column with missing optional numbers stays float64, with NaN."""
    # Imported here, because only models fitted on DataFrames need pandas in memory.
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame(dict(zip(schema.names, _columns(rows, schema), strict=True)))


def to_array(rows: Rows, schema: InputSchema) -> NDArray[Any]:
    """Return the rows as one array, n x k for k columns, or n and the shape of a row's only value."""
    if not rows.objects.shape[1]:
        dtype = schema.columns[0].dtype
        array = rows.numbers if dtype is None else rows.numbers.astype(dtype)
        return array[:, 0] if schema.is_flat else array
    if schema.columns[0].type == "tensor":
        return _stacked(rows.objects[:, 0].tolist())
    values = rows.objects[:, 0].tolist() if schema.is_flat else rows.objects.tolist()
    return _array_of(values, schema.columns[0])


def _to_list(rows: Rows, column: Column) -> list[Any]:
    """Return the only value of each row, in the type of Python that a type hint asks for."""
    if not column.is_number:
        return [_to_python(value) for value in rows.objects[:, 0]]
    number_type = _PYTHON_TYPES.get(column.type, float)
    return [None if np.isnan(value) else number_type(value) for value in rows.numbers[:, 0]]


def _to_python(value: Any) -> Any:
    """Return a date as Python's ``datetime``, which has microseconds, and any other value unchanged."""
    return value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value


def _columns(rows: Rows, schema: InputSchema) -> list[Any]:
    """Return the values of each column in the order of the schema, in the types that the model takes."""
    numbers, objects = iter(rows.numbers.T), iter(rows.objects.T)
    return [_numbers(c, next(numbers)) if c.is_number else _objects(c, next(objects)) for c in schema.columns]


def _numbers(column: Column, values: NDArray[np.float64]) -> NDArray[np.generic]:
    if column.dtype is not None:
        return values.astype(column.dtype)
    if column.type == "double" or (not column.required and np.isnan(values).any()):
        return values
    return values.astype(_DTYPES[column.type])


def _objects(column: Column, values: NDArray[np.object_]) -> Any:
    if column.type == "datetime":
        return np.array([np.datetime64("NaT") if value is None else value for value in values], "datetime64[ns]")
    if column.type == "any":
        return values.tolist()  # pandas gives the column the type of its values
    if column.type == "tensor":
        return _stacked(values.tolist())
    return values if column.dtype is None else _array_of(values.tolist(), column)


def _array_of(values: list[Any], column: Column) -> NDArray[Any]:
    """Return values, or rows of them, as an array: of the column's dtype or, without one, of the type of the values."""
    if column.dtype is not None and column.dtype.kind == "S":
        return np.array([value.encode() for value in _flat(values)], "S").reshape(np.shape(values))
    if column.dtype is not None and column.dtype.kind == "O":
        return _cells(values)
    if column.dtype is not None:
        return np.array(values, "U" if column.is_string else column.dtype)
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        return _array_of_objects(values)
    # NumPy would turn numbers beside text into text.
    is_text = array.dtype.kind in "US" and not all(isinstance(value, str) for value in _flat(values))
    return np.array(values, dtype=np.object_) if is_text else array


def _flat(values: list[Any]) -> list[Any]:
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _array_of_objects(values: list[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def _cells(values: list[Any]) -> NDArray[np.object_]:
    """Return values, or rows of them, as an array of objects, in which a value that is a list stays one."""
    if not isinstance(values[0], list):
        return _array_of_objects(values)
    array = np.empty((len(values), len(values[0])), np.object_)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            array[i, j] = value
    return array


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays of one shape as one array; arrays of different shapes as an array of objects, as MLflow does."""
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    ragged = np.empty(len(arrays), np.object_)
    for i, array in enumerate(arrays):
        ragged[i] = array
    return ragged


def _from_records(values: list[Any]) -> Any:
    """Return objects as a DataFrame, and other values as an array."""
    if all(isinstance(value, dict) for value in values):
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame(values)
    try:
        return np.array(values)
    except ValueError:
        return _array_of_objects(values)
