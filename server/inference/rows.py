"""The input and the output of an engine: rows and a prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# A valid row with its values as they were in JSON, in the signature's order; a missing optional value is None.
Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Rows:
    """Valid rows of one model, as arrays with columns in the order of its signature.

    ``numbers`` is n x k float64 with the number and boolean columns; a missing optional value is NaN. ``objects`` is
    n x m with all other columns, such as strings and columns without a type; a missing value is None. Either may have
    no columns.
    """

    numbers: NDArray[np.float64]
    objects: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.numbers)

    def chunks(self, size: int) -> Iterator[Rows]:
        """Yield the rows in chunks of at most ``size`` rows."""
        for start in range(0, len(self), size):
            stop = start + size
            yield Rows(self.numbers[start:stop], self.objects[start:stop])

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """Return all rows of ``parts``, in order."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.objects for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a predict call, which its requests share: requests with other options get a call of their own.

    ``probabilities`` asks for the probability of every class. ``params`` are the model's inference parameters that the
    request sets, by name. ``value_kinds`` are those of :meth:`server.inference.schema.InputSchema.value_kinds`.
    """

    probabilities: bool = False
    params: tuple[tuple[str, object], ...] = ()
    value_kinds: tuple[object, ...] = ()


NO_OPTIONS = Options()


class ClassProbabilities(NamedTuple):
    """The probability of each class (n x classes), for one output of the model, in the model's order of classes."""

    classes: tuple[Any, ...]
    values: NDArray[np.float64]


class Prediction(NamedTuple):
    """The prediction for n rows: n labels and, if the model has probabilities, n confidences.

    A label is a JSON value, or a list of values if the model has several outputs. A confidence is the probability of
    the label, from 0 to 1, in the same shape. ``columns`` are the names of the outputs, if the model has named them.
    ``probabilities`` are those of all classes, one set for each output, if the options ask for them and the model has
    them.
    """

    labels: list[Any]
    confidences: list[Any] | None
    columns: tuple[str, ...] | None = None
    probabilities: tuple[ClassProbabilities, ...] | None = None

    @property
    def first(self) -> tuple[Any, Any]:
        """The label and the confidence of the first row."""
        return self.labels[0], self.confidences[0] if self.confidences else None

    def part(self, start: int, stop: int) -> Prediction:
        """Return the prediction for the rows from ``start`` up to, but not including, ``stop``."""
        confidences = self.confidences[start:stop] if self.confidences else None
        probabilities = self.probabilities
        if probabilities is not None:
            probabilities = tuple(ClassProbabilities(c, values[start:stop]) for c, values in probabilities)
        return Prediction(self.labels[start:stop], confidences, self.columns, probabilities)

    @staticmethod
    def concatenate(parts: Sequence[Prediction]) -> Prediction:
        """Return the predictions of ``parts`` as one, in order."""
        if len(parts) == 1:
            return parts[0]
        labels = [label for part in parts for label in part.labels]
        confidences = None
        if all(part.confidences is not None for part in parts):
            confidences = [confidence for part in parts for confidence in part.confidences or ()]
        return Prediction(labels, confidences, parts[0].columns, _concatenate([part.probabilities for part in parts]))


def _concatenate(parts: Sequence[tuple[ClassProbabilities, ...] | None]) -> tuple[ClassProbabilities, ...] | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return tuple(
        ClassProbabilities(outputs[0].classes, np.concatenate([output.values for output in outputs]))
        for outputs in zip(*known, strict=True)
    )
