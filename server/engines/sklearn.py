"""The ``sklearn`` engine, which runs the fitted estimator itself, loaded without importing MLflow."""

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

from server.engines.known_values import known_values
from server.engines.model_input import to_array, to_model_input
from server.engines.refused_rows import translated_row_errors
from server.errors import LoadError, ModelError, first_line
from server.inference.rows import NO_OPTIONS, ClassProbabilities, Options, Prediction, Rows
from server.inference.schema import Form, InputSchema
from server.inference.signature import schema_of_estimator
from server.model_store.mlmodel import MLmodel

logger = logging.getLogger(__name__)

# Classifiers whose label is by definition the class of the highest probability, so that one call gives both. A subclass
# may define its label differently.
_ARGMAX_CLASSIFIERS = (RandomForestClassifier, ExtraTreesClassifier, DecisionTreeClassifier)


class SklearnEngine:
    """An engine for a scikit-learn estimator, usually a pipeline."""

    name = "sklearn"

    def __init__(self, estimator: Any, schema: InputSchema) -> None:
        self.estimator = estimator
        self.schema = schema
        # An estimator fitted on a DataFrame selects columns by name, and string columns do not fit a float64 array.
        self.uses_pandas = schema.form is Form.FRAME and (
            hasattr(estimator, "feature_names_in_") or not all(c.is_number for c in schema.columns)
        )
        # A mixture model has probabilities of its components, but no classes.
        self._has_probabilities = hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_")
        self._is_argmax = self._has_probabilities and _is_argmax(estimator)

    def predict(self, rows: Rows, options: Options = NO_OPTIONS) -> Prediction:
        """Return labels, and the probability of each if the estimator has probabilities."""
        with translated_row_errors(rows, self.schema):
            x = self._input(rows)
            if self._is_argmax:
                return self._by_argmax(x, options)
            return self._by_two_calls(x, options) if self._has_probabilities else self._labels_only(x)

    def outputs(self, rows: Rows) -> NDArray[np.float64]:
        """Return the probability of each class, n x classes, or the value, n x 1. Companions are compared with it."""
        x = self._input(rows)
        if hasattr(self.estimator, "classes_"):
            return np.asarray(self.estimator.predict_proba(x), np.float64)
        return np.asarray(self.estimator.predict(x), np.float64).reshape(len(rows), -1)

    def known_values(self) -> dict[str, object]:
        """Return a value for each column of which the fitted steps tell one."""
        return known_values(self.estimator, self.schema.names)

    def _input(self, rows: Rows) -> Any:
        if self.uses_pandas:
            return to_model_input(rows, self.schema)
        return rows.numbers if self.schema.form is Form.FRAME else to_array(rows, self.schema)

    def _labels_only(self, x: Any) -> Prediction:
        return Prediction(self.estimator.predict(x).tolist(), None)

    def _by_argmax(self, x: Any, options: Options) -> Prediction:
        probabilities = self.estimator.predict_proba(x)
        best = probabilities.argmax(axis=1)
        labels = self.estimator.classes_.take(best)
        confidences = probabilities[np.arange(len(best)), best].tolist()
        return Prediction(labels.tolist(), confidences, None, self._of_all_classes(probabilities, options))

    def _by_two_calls(self, x: Any, options: Options) -> Prediction:
        labels = self.estimator.predict(x)
        probabilities = self.estimator.predict_proba(x)
        confidences = _confidences(self.estimator.classes_, labels, probabilities)
        return Prediction(labels.tolist(), confidences, None, self._of_all_classes(probabilities, options))

    def _of_all_classes(self, probabilities: Any, options: Options) -> tuple[ClassProbabilities, ...] | None:
        if not options.probabilities:
            return None
        classes = self.estimator.classes_
        if not isinstance(classes, list):
            return (ClassProbabilities(tuple(classes.tolist()), probabilities),)
        if not isinstance(probabilities, list):  # a ClassifierChain gives only the probability of each output's 1
            probabilities = [np.column_stack([1 - values, values]) for values in probabilities.T]
        return tuple(
            ClassProbabilities(tuple(np.asarray(names).tolist()), values)
            for names, values in zip(classes, probabilities, strict=True)
        )


def _is_argmax(estimator: Any) -> bool:
    final = estimator.steps[-1][1] if type(estimator) is Pipeline else estimator
    return type(final) in _ARGMAX_CLASSIFIERS and final.n_outputs_ == 1


def load(mlmodel: MLmodel, _kernel_cache: Path | None = None) -> SklearnEngine:
    """Load the estimator that the ``sklearn`` flavor names, and limit it to one thread.

    Raises:
        ModelError: the estimator's file is missing or does not load, or the estimator cannot predict.
    """
    flavor = mlmodel.flavors["sklearn"]
    if flavor.get("code"):
        sys.path.insert(0, str(mlmodel.folder / flavor["code"]))  # MLflow does the same with code_paths
    path = mlmodel.folder / str(flavor.get("pickled_model"))
    estimator = _read_estimator(
        path, str(flavor.get("serialization_format", "pickle")), flavor.get("skops_trusted_types")
    )
    if not hasattr(estimator, "predict"):
        raise ModelError(f"the model is a {type(estimator).__name__}, which has no method predict")
    for nested in _nested_estimators(estimator):
        if getattr(nested, "n_jobs", None) is not None:
            nested.n_jobs = 1
    return SklearnEngine(estimator, mlmodel.schema or schema_of_estimator(estimator))


def _read_estimator(path: Path, format_name: str, trusted: list[str] | None) -> Any:
    if format_name not in _FORMATS:
        raise ModelError(f"the model is saved in the format {format_name!r}; expected one of {', '.join(_FORMATS)}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InconsistentVersionWarning)
            estimator = _FORMATS[format_name](path, trusted)
    except Exception as error:
        reason = first_line(error)
        raise LoadError(f"the model's file {path.name} does not load: {type(error).__name__}: {reason}") from error
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
        # Loading a pickle runs its code. docs/limits.md, "Models", says to trust the registry or to log models as
        # skops.
        return pickle.load(file)  # noqa: S301


_FORMATS: dict[str, Callable[[Path, list[str] | None], Any]] = {
    "skops": _read_skops,
    "cloudpickle": _read_cloudpickle,
    "pickle": _read_pickle,
}


def _nested_estimators(value: Any) -> Iterator[BaseEstimator]:
    """Yield an estimator and all estimators in its attributes, also inside lists, tuples and dicts."""
    if isinstance(value, BaseEstimator):
        yield value
        value = list(vars(value).values())
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _nested_estimators(item)


def _confidences(classes: Any, labels: NDArray[Any], probabilities: Any) -> list[Any] | None:
    """Return the probability of each row's label, or of each output's label if there are several outputs.

    The probability is None if a label is not one of the classes, as for a rejected row.
    """
    if labels.ndim == 1:
        indices = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        chosen = probabilities[np.arange(len(labels)), indices].tolist()
        return [value if known else None for value, known in zip(chosen, classes[indices] == labels, strict=True)]
    if isinstance(probabilities, list):
        outputs = enumerate(zip(classes, probabilities, strict=True))
        columns = [_confidences(c, labels[:, i], p) for i, (c, p) in outputs]
        return [list(row) for row in zip(*(column or () for column in columns), strict=True)]
    # Multilabel: a column of 0 and 1 for each class, and the probability of 1.
    return list(np.where(labels == 1, probabilities, 1 - probabilities).tolist())
