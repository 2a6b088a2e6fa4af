"""The ``pyfunc`` engine, which serves any model that MLflow can load, through MLflow's own wrapper."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from server.engines.model_input import to_model_input
from server.engines.refused_rows import translated_row_errors
from server.errors import Fault, LoadError, first_line
from server.inference.faults import invalid_rows
from server.inference.rows import NO_OPTIONS, Options, Prediction, Rows
from server.inference.schema import Form, InputSchema
from server.inference.signature import schema_of_estimator, schema_of_example
from server.model_store.mlmodel import MLmodel

# The types of columns in which MLflow accepts no NaN.
_WITHOUT_NAN = ("boolean", "integer", "long")


class PyfuncEngine:
    """An engine that calls a ``mlflow.pyfunc`` model on a DataFrame. Such models return no confidences."""

    name = "pyfunc"
    uses_pandas = True

    def __init__(self, model: Any, schema: InputSchema) -> None:
        self._model = model
        self.schema = schema

    def predict(self, rows: Rows, options: Options = NO_OPTIONS) -> Prediction:
        """Return the model's result as one JSON value, or one list, per row."""
        params = dict(options.params)
        with translated_row_errors(rows, self.schema, loose=bool(params)):
            output = self._model.predict(self._input(rows), **({"params": params} if params else {}))
        output = _as_frame(output)
        return Prediction(_labels(output), None, _output_names(output))

    def _input(self, rows: Rows) -> Any:
        data = to_model_input(rows, self.schema)
        if self.schema.form is not Form.FRAME:
            return data
        # MLflow does not accept NaN in a column of whole numbers or booleans, so one without any value is left out.
        optional = [c.name for c in self.schema.columns if not c.required and c.type in _WITHOUT_NAN]
        empty = [name for name in optional if data[name].isna().all()]
        if len(empty) == len(self.schema.columns):  # MLflow would call the model without any row
            raise invalid_rows([Fault(f"must have a value for one of {', '.join(empty[:20])}", "#")])
        return data.drop(columns=empty)


def load(mlmodel: MLmodel, _kernel_cache: Path | None = None) -> PyfuncEngine:
    """Load the model with ``mlflow.pyfunc.load_model``.

    Raises:
        LoadError: MLflow cannot load the model.
    """
    # Imported here, because MLflow takes about 160 MB, which only this engine needs.
    import mlflow.pyfunc  # noqa: PLC0415

    try:
        model = mlflow.pyfunc.load_model(str(mlmodel.folder))
    except Exception as error:
        reason = first_line(error)
        raise LoadError(f"the model does not load as a pyfunc: {type(error).__name__}: {reason}") from error
    return PyfuncEngine(model, mlmodel.schema or _schema_without_signature(model, mlmodel))


def _schema_without_signature(model: Any, mlmodel: MLmodel) -> InputSchema:
    """Return the schema of the estimator that the model wraps, if it is one of scikit-learn, or that of its example."""
    with contextlib.suppress(Exception):  # A model without a wrapped one raises MlflowException or AttributeError.
        estimator = model.get_raw_model()
        if hasattr(estimator, "n_features_in_") or "sklearn" in mlmodel.flavors:
            return schema_of_estimator(estimator)
    return schema_of_example(mlmodel.example)


def _as_frame(output: Any) -> Any:
    """Return a dict of columns as a DataFrame, and any other result unchanged.

    Raises:
        RuntimeError: the dict does not have a list of equally many values for each column.
    """
    if not isinstance(output, dict):
        return output
    import pandas as pd  # noqa: PLC0415  (already in memory, because the model's input is a DataFrame)

    try:
        return pd.DataFrame({name: v.tolist() if getattr(v, "ndim", 1) > 1 else v for name, v in output.items()})
    except ValueError as error:
        raise RuntimeError(f"expected one result per row from the model, got a dict: {first_line(error)}") from error


def _labels(output: Any) -> list[Any]:
    """Return one value per row for a single column, and one list per row for several."""
    if hasattr(output, "to_numpy"):
        if output.size and output.to_numpy().dtype.kind == "M":
            output = output.astype(object)  # as pandas' Timestamp: NumPy's times would become numbers
        output = output.to_numpy()
        if output.ndim == 2 and output.shape[1] == 1:
            output = output[:, 0]
    if isinstance(output, str | bytes) or not isinstance(output, Iterable):
        raise RuntimeError(f"expected one result per row from the model, got {type(output).__name__}")
    # A list may contain NumPy numbers, which are not JSON values.
    return [item.tolist() if hasattr(item, "tolist") else item for item in output]


def _output_names(output: Any) -> tuple[str, ...] | None:
    """Return the column names of a DataFrame, or the name of a Series, or None for other results.

    Without a name, a Series gets "0", as in MLflow.
    """
    if hasattr(output, "columns"):
        return tuple(str(name) for name in output.columns)
    if hasattr(output, "to_frame"):
        return ("0" if output.name is None else str(output.name),)
    return None
