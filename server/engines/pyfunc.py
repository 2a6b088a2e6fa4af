"""The ``pyfunc`` engine, which serves any model that MLflow can load, through MLflow's own wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.engines.frame import to_frame
from server.engines.refused_rows import translated_row_errors
from server.errors import ModelError, first_line
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.mlmodel import MLmodel

if TYPE_CHECKING:
    import pandas as pd


class PyfuncEngine:
    """An engine that calls a ``mlflow.pyfunc`` model on a DataFrame. Such models return no confidences."""

    name = "pyfunc"
    uses_pandas = True

    def __init__(self, model: Any, schema: InputSchema) -> None:
        self._model = model
        self._schema = schema

    def predict(self, rows: Rows) -> Prediction:
        """Return the model's result as one JSON value, or one list, per row."""
        with translated_row_errors():
            output = _as_frame(self._model.predict(self._frame(rows)))
        return Prediction(_labels(output), None, _output_names(output))

    def _frame(self, rows: Rows) -> pd.DataFrame:
        # MLflow does not accept NaN in an integer column, so optional columns without any value are left out.
        frame = to_frame(rows, self._schema)
        optional = [column.name for column in self._schema.columns if not column.required]
        return frame.drop(columns=[name for name in optional if frame[name].isna().all()])


def load(mlmodel: MLmodel, _kernel_cache: Path | None = None) -> PyfuncEngine:
    """Load the model with ``mlflow.pyfunc.load_model``.

    Raises:
        ModelError: MLflow cannot load the model.
    """
    # Imported here, because MLflow takes about 160 MB, which only this engine needs.
    import mlflow.pyfunc  # noqa: PLC0415

    try:
        return PyfuncEngine(mlflow.pyfunc.load_model(str(mlmodel.folder)), mlmodel.schema)
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"the model does not load as a pyfunc: {type(error).__name__}: {reason}") from error


def _as_frame(output: Any) -> Any:
    """Return a dict of columns as a DataFrame, and any other result unchanged."""
    if not isinstance(output, dict):
        return output
    import pandas as pd  # noqa: PLC0415  (already in memory, because the model's input is a DataFrame)

    return pd.DataFrame(output)


def _labels(output: Any) -> list[Any]:
    """Return one value per row for a single column, and one list per row for several."""
    if hasattr(output, "to_numpy"):
        output = output.to_numpy()
        if output.ndim == 2 and output.shape[1] == 1:
            output = output[:, 0]
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
