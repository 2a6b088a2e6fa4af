"""The ``sklearn`` engine: the fitted estimator itself, loaded without importing MLflow."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier

from server.engines.frame import to_frame
from server.engines.refused_rows import refused_rows
from server.errors import ModelError, first_line
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.model_store.mlmodel import MLmodel

logger = logging.getLogger(__name__)

# Their label is, by definition, the class of the highest probability: one pass gives both. A subclass may differ.
_ARGMAX = (RandomForestClassifier, ExtraTreesClassifier, DecisionTreeClassifier)


class SklearnEngine:
    """A scikit-learn estimator, most often a pipeline."""

    name = "sklearn"

    def __init__(self, estimator: Any, schema: InputSchema) -> None:
        self.estimator = estimator
        self._schema = schema
        # Fitted on a DataFrame, it finds its columns by name; string columns have no place in a float64 block.
        self.uses_pandas = hasattr(estimator, "feature_names_in_") or any(c.is_string for c in schema.columns)
        self._answer = self._way(estimator)

    def predict(self, rows: Rows) -> Prediction:
        """Labels, with the probability of each where the estimator has probabilities."""
        with refused_rows():
            return self._answer(self._input(rows))

    def totals(self, rows: Rows) -> NDArray[np.float64]:
        """The probability of each class, n x classes; without classes, the value, n x 1. It checks companions."""
        x = self._input(rows)
        if hasattr(self.estimator, "classes_"):
            return np.asarray(self.estimator.predict_proba(x), np.float64)
        return np.asarray(self.estimator.predict(x), np.float64).reshape(len(rows), -1)

    def _input(self, rows: Rows) -> Any:
        return to_frame(rows, self._schema) if self.uses_pandas else rows.numbers

    def _way(self, estimator: Any) -> Callable[[Any], Prediction]:
        # A mixture has probabilities of its components, but no classes that they belong to.
        if not (hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_")):
            return self._labels_only
        final = estimator.steps[-1][1] if type(estimator) is Pipeline else estimator
        if type(final) in _ARGMAX and final.n_outputs_ == 1:
            return self._by_argmax
        return self._by_two_calls

    def _labels_only(self, x: Any) -> Prediction:
        return Prediction(self.estimator.predict(x).tolist(), None)

    def _by_argmax(self, x: Any) -> Prediction:
        probabilities = self.estimator.predict_proba(x)
        best = probabilities.argmax(axis=1)
        labels = self.estimator.classes_.take(best)
        return Prediction(labels.tolist(), probabilities[np.arange(len(best)), best].tolist())

    def _by_two_calls(self, x: Any) -> Prediction:
        labels = self.estimator.predict(x)
        probabilities = self.estimator.predict_proba(x)
        return Prediction(labels.tolist(), _confidences(self.estimator.classes_, labels, probabilities))


def load(mlmodel: MLmodel, _kernels: Path | None = None) -> SklearnEngine:
    """Read the estimator that the ``sklearn`` flavor names, and leave it one thread.

    Raises:
        ModelError: its file is missing or does not load, or it cannot predict.
    """
    flavor = mlmodel.flavors["sklearn"]
    if flavor.get("code"):
        sys.path.insert(0, str(mlmodel.folder / flavor["code"]))  # as MLflow does with code_paths
    path = mlmodel.folder / str(flavor.get("pickled_model"))
    estimator = _read(path, str(flavor.get("serialization_format", "pickle")), flavor.get("skops_trusted_types"))
    if not hasattr(estimator, "predict"):
        raise ModelError(f"the model is a {type(estimator).__name__}, which does not predict")
    for part in _parts(estimator):
        if getattr(part, "n_jobs", None) is not None:
            part.n_jobs = 1
    return SklearnEngine(estimator, mlmodel.schema)


def _read(path: Path, form: str, trusted: list[str] | None) -> Any:
    if form not in _FORMATS:
        raise ModelError(f"the model is saved as {form!r}; expected one of {', '.join(_FORMATS)}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InconsistentVersionWarning)
            estimator = _FORMATS[form](path, trusted)
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"the model's file {path.name} does not load: {type(error).__name__}: {reason}") from error
    for warning in caught[:1]:
        logger.warning("%s", str(warning.message).splitlines()[0])
    return estimator


def _read_skops(path: Path, trusted: list[str] | None) -> Any:
    # Each format's library is imported only for a model of that format.
    from skops.io import load as load_skops  # noqa: PLC0415

    return load_skops(path, trusted=trusted)


def _read_cloudpickle(path: Path, _trusted: list[str] | None) -> Any:
    import cloudpickle  # noqa: PLC0415

    with path.open("rb") as file:
        return cloudpickle.load(file)


def _read_pickle(path: Path, _trusted: list[str] | None) -> Any:
    with path.open("rb") as file:
        # A registry's pickles are code: docs/limits.md, "Models", says to trust the registry or to log models as skops.
        return pickle.load(file)  # noqa: S301


_FORMATS: dict[str, Callable[[Path, list[str] | None], Any]] = {
    "skops": _read_skops,
    "cloudpickle": _read_cloudpickle,
    "pickle": _read_pickle,
}


def _parts(value: Any) -> Iterator[BaseEstimator]:
    """An estimator and every estimator it holds, in whatever lists, tuples and dicts."""
    if isinstance(value, BaseEstimator):
        yield value
        value = list(vars(value).values())
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)


def _confidences(classes: Any, labels: NDArray[Any], probabilities: Any) -> list[Any] | None:
    """The probability of each row's label; of each output's label where there are several outputs.

    None where a label is none of the classes (one that stands for "rejected", say).
    """
    if labels.ndim == 1:
        chosen = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        found = probabilities[np.arange(len(labels)), chosen].tolist()
        return [each if known else None for each, known in zip(found, classes[chosen] == labels, strict=True)]
    if isinstance(probabilities, list):
        each = [_confidences(c, labels[:, i], p) for i, (c, p) in enumerate(zip(classes, probabilities, strict=True))]
        return [list(row) for row in zip(*(column or () for column in each), strict=True)]
    # Multilabel: one column of 0/1 a class, and the probability of 1.
    return list(np.where(labels == 1, probabilities, 1 - probabilities).tolist())
