"""The ``pyfunc`` engine: anything that MLflow can load, through MLflow's own wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.engines.frame import to_frame
from server.engines.refused_rows import refused_rows
from server.errors import ModelError, first_line
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.mlmodel import MLmodel

if TYPE_CHECKING:
    import pandas as pd


class PyfuncEngine:
    """Calls ``mlflow.pyfunc`` on a DataFrame; there are no confidences in its contract."""

    name = "pyfunc"
    uses_pandas = True

    def __init__(self, model: Any, schema: InputSchema) -> None:
        self._model = model
        self._schema = schema

    def predict(self, rows: Rows) -> Prediction:
        """Whatever the model returned, as one JSON value or list a row."""
        with refused_rows():
            output = _table(self._model.predict(self._frame(rows)))
        return Prediction(_labels(output), None, _columns(output))

    def _frame(self, rows: Rows) -> pd.DataFrame:
        """Without the optional columns that are missing in every row: MLflow takes no NaN for a whole number."""
        frame = to_frame(rows, self._schema)
        optional = [column.name for column in self._schema.columns if not column.required]
        return frame.drop(columns=[name for name in optional if frame[name].isna().all()])


def load(mlmodel: MLmodel, _kernels: Path | None = None) -> PyfuncEngine:
    """Load by ``mlflow.pyfunc.load_model``.

    Raises:
        ModelError: MLflow cannot load it, with MLflow's reason.
    """
    # Imported here: MLflow takes about 160 MB, which only this engine needs.
    import mlflow.pyfunc  # noqa: PLC0415

    try:
        return PyfuncEngine(mlflow.pyfunc.load_model(str(mlmodel.folder)), mlmodel.schema)
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"the model does not load as a pyfunc: {type(error).__name__}: {reason}") from error


def _table(output: Any) -> Any:
    """A dict of columns is a DataFrame, as which it has rows."""
    if not isinstance(output, dict):
        return output
    import pandas as pd  # noqa: PLC0415  (in memory already: the model was given a DataFrame)

    return pd.DataFrame(output)


def _labels(output: Any) -> list[Any]:
    """A DataFrame of one column counts as that column, of several as a list a row."""
    if hasattr(output, "to_numpy"):
        output = output.to_numpy()
        if output.ndim == 2 and output.shape[1] == 1:
            output = output[:, 0]
    # A list may hold NumPy's numbers, which are no JSON values.
    return [item.tolist() if hasattr(item, "tolist") else item for item in output]


def _columns(output: Any) -> tuple[str, ...] | None:
    """The names of a DataFrame's columns, or of a Series, which MLflow takes for a DataFrame of one."""
    if hasattr(output, "columns"):
        return tuple(str(name) for name in output.columns)
    if hasattr(output, "to_frame"):
        return ("0" if output.name is None else str(output.name),)
    return None
