"""Values that a fitted estimator knows, from which an example row is made if the model was logged without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline


def known_values(estimator: Any, names: Sequence[str]) -> dict[str, object]:
    """Return a value for each column of which the first steps of ``estimator`` tell one: a category, a mean, or text.

    ``names`` are the columns of its input, in order. An error in an estimator of another version gives no values.
    """
    try:
        pairs = [(name, _json_value(value)) for name, value in _known(estimator, list(names))]
    except Exception:  # The trial of the model reports what is wrong with it.
        return {}
    return {name: value for name, value in reversed(pairs) if value is not None}


def _known(step: Any, names: list[str]) -> Iterator[tuple[str, object]]:
    """Yield the known values of a step's columns. The first value of a column counts."""
    if isinstance(step, Pipeline):
        yield from _known(step.steps[0][1], names)
    elif isinstance(step, ColumnTransformer):
        for _, part, selection in step.transformers_:
            yield from _known(part, _selected(selection, names))
    elif hasattr(step, "categories_"):
        yield from ((name, values[0]) for name, values in zip(names, step.categories_, strict=True) if len(values))
    elif hasattr(step, "build_analyzer"):  # a vectorizer of text
        yield from ((name, "text") for name in names)
    else:
        yield from zip(names, _averages(step), strict=False)


def _averages(step: Any) -> Sequence[object]:
    """Return the average of each column, which imputers and scalers keep."""
    kept = (getattr(step, attribute, None) for attribute in ("statistics_", "mean_", "center_"))
    return next((list(values) for values in kept if isinstance(values, np.ndarray)), ())


def _selected(selection: Any, names: list[str]) -> list[str]:
    """Return the names of the columns that a ColumnTransformer selects by name, index, mask or slice."""
    if isinstance(selection, str):
        return [selection]
    if isinstance(selection, int):
        return [names[selection]]
    if not isinstance(selection, slice) and all(isinstance(item, str) for item in selection):
        return list(selection)
    return [str(name) for name in np.array(names, dtype=object)[selection]]


def _json_value(value: object) -> object:
    """Return a value of NumPy as JSON has it; None for a missing value and for what JSON does not have."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) else None
