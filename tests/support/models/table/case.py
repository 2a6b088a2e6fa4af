"""The type of the table's entries, and the reference of their answers: the library that a model was made with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    import mlflow.sklearn
    from mlflow.models import infer_signature

REQUIREMENTS = ["scikit-learn"]  # stated, since MLflow would take long to infer them

# An instance of /predict: values by name, a list of values, or one value.
Row = Any
Params = Mapping[str, Any]


class Library(Protocol):
    """The predictions of a model without MLflow or a server."""

    def input(self, rows: Sequence[Row]) -> Any:
        """Return rows as MLflow's client takes them: a DataFrame, an array or a list."""
        ...

    def labels(self, rows: Sequence[Row], params: Params | None = None) -> list[Any]:
        """Return the prediction for each row, as JSON values."""
        ...

    def probabilities(self, rows: Sequence[Row]) -> list[Any] | None:
        """Return each row's probabilities by label, in the model's order; None if the model has no probabilities.

        If there are several outputs, each row has a list of these objects.
        """
        ...


Save = Callable[[Path], Library]


@dataclass(frozen=True)
class Case:
    """A model of the table and the requests for it. ``save`` writes the model into a folder.

    ``rows`` are three valid rows with different ``answers``. Every row of ``bad`` must be refused, and every row of
    ``converted`` by all protocols but MLflow's, which converts its values. ``engine`` is the engine that serves the
    model. ``names`` are the names of the values in rows that are lists. ``forms`` are the forms
    of MLflow's scoring protocol that take the rows. ``json_columns`` are the columns that V2 takes as JSON texts.
    ``variants`` are the answers to the same rows with other parameters, and ``bad_params`` parameters that must be
    refused. ``has_working_example`` is whether the model says enough of its input for an example that it accepts.
    ``slow`` is whether only `make test-slow` tests the model.
    """

    save: Save
    rows: Sequence[Row]
    answers: Sequence[Any]
    bad: Sequence[Row]
    converted: Sequence[Row] = ()
    engine: str = "sklearn"
    names: Sequence[str] = ()
    forms: Sequence[str] = ("dataframe_records", "dataframe_split", "instances", "inputs")
    json_columns: Sequence[str] = ()
    variants: Sequence[tuple[Params, Sequence[Any]]] = ()
    bad_params: Sequence[Params] = ()
    has_working_example: bool = True
    slow: bool = True

    @property
    def name(self) -> str:
        """The name of the model: that of the function that saves it."""
        return self.save.__name__


@dataclass
class Table:
    """The cases of one module, which its functions join in the order of the file."""

    cases: list[Case] = field(default_factory=list)

    def case(
        self, rows: Sequence[Row], answers: Sequence[Any], bad: Sequence[Row], **more: Any
    ) -> Callable[[Save], Save]:
        """Return a decorator that adds a case for a function that saves a model; see :class:`Case`."""

        def add(save: Save) -> Save:
            self.cases.append(Case(save, rows, answers, bad, **more))
            return save

        return add


@dataclass(frozen=True)
class Estimator:
    """A fitted scikit-learn estimator; ``data`` is what it was fitted on: a DataFrame, an array or a list of texts."""

    fitted: Any
    data: Any
    method: str = "predict"

    def input(self, rows: Sequence[Row]) -> Any:
        """Return rows in the form and with the types of ``data``."""
        if isinstance(self.data, pd.DataFrame):
            return pd.DataFrame(rows, columns=self.data.columns).astype(self.data.dtypes)
        if not isinstance(self.data, np.ndarray):
            return list(rows)
        # The dtype of strings has a length, to which longer ones would be cut.
        return np.array(rows, None if self.data.dtype.kind == "U" else self.data.dtype)

    def labels(self, rows: Sequence[Row], _params: Params | None = None) -> list[Any]:
        """Return what the estimator's method ``predict`` does, or another ``method`` that the model was logged with."""
        labels: list[Any] = getattr(self.fitted, self.method)(self.input(rows)).tolist()
        return labels

    def probabilities(self, rows: Sequence[Row]) -> list[Any] | None:
        """Return the estimator's ``predict_proba`` by class."""
        if self.method != "predict" or not hasattr(self.fitted, "predict_proba"):
            return None
        probabilities, classes = self.fitted.predict_proba(self.input(rows)), self.fitted.classes_
        if isinstance(probabilities, list):
            outputs = [_by_class(c, p) for c, p in zip(classes, probabilities, strict=True)]
            return [list(row) for row in zip(*outputs, strict=True)]
        return _by_class(classes, probabilities)


def _by_class(classes: Any, probabilities: Any) -> list[dict[str, float]]:
    return [dict(zip(map(str, classes.tolist()), row, strict=True)) for row in probabilities.tolist()]


@dataclass(frozen=True)
class Custom:
    """A custom model of MLflow; ``to_input`` returns rows as MLflow hands them to it."""

    model: Any
    to_input: Callable[[Sequence[Row]], Any] = pd.DataFrame

    def input(self, rows: Sequence[Row]) -> Any:
        """Return rows as a DataFrame if they are objects, else as a list."""
        return pd.DataFrame(rows) if isinstance(rows[0], dict) else list(rows)

    def labels(self, rows: Sequence[Row], params: Params | None = None) -> list[Any]:
        """Return what the model's method ``predict`` does; a list of values per row if it has several outputs."""
        output = self.model.predict(None, self.to_input(rows), dict(params or {}))
        if isinstance(output, pd.DataFrame):
            return list(output.to_numpy().tolist())
        return list(output.tolist()) if hasattr(output, "tolist") else list(output)

    def probabilities(self, _rows: Sequence[Row]) -> None:
        """Return None: custom models have no probabilities."""


def save_estimator(path: Path, estimator: Any, data: Any, *, has_signature: bool = True, **options: Any) -> Estimator:
    """Save an estimator that was fitted on ``data``, by default with a signature and as cloudpickle.

    ``options`` are further arguments of ``mlflow.sklearn.save_model``.
    """
    if has_signature:
        options = {"signature": infer_signature(data, estimator.predict(data)), **options}
    options = {"serialization_format": "cloudpickle", "pip_requirements": REQUIREMENTS, **options}
    mlflow.sklearn.save_model(estimator, path, **options)
    return Estimator(estimator, data, options.get("pyfunc_predict_fn", "predict"))
