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
    n x m with the string columns; a missing one is None. Either may have no columns.
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


class Prediction(NamedTuple):
    """The prediction for n rows: n labels and, if the model has probabilities, n confidences.

    A label is a JSON value, or a list of values if the model has several outputs. A confidence is the probability of
    the label, from 0 to 1, in the same shape. ``columns`` are the names of the outputs, if the model has named them.
    """

    labels: list[Any]
    confidences: list[Any] | None
    columns: tuple[str, ...] | None = None

    @property
    def first(self) -> tuple[Any, Any]:
        """The label and the confidence of the first row."""
        return self.labels[0], self.confidences[0] if self.confidences else None

    def part(self, start: int, stop: int) -> Prediction:
        """Return the prediction for the rows from ``start`` up to, but not including, ``stop``."""
        confidences = self.confidences[start:stop] if self.confidences else None
        return Prediction(self.labels[start:stop], confidences, self.columns)

    @staticmethod
    def concatenate(parts: Sequence[Prediction]) -> Prediction:
        """Return the predictions of ``parts`` as one, in order."""
        if len(parts) == 1:
            return parts[0]
        labels = [label for part in parts for label in part.labels]
        if any(part.confidences is None for part in parts):
            return Prediction(labels, None, parts[0].columns)
        return Prediction(labels, [confidence for part in parts for confidence in part.confidences or ()])
