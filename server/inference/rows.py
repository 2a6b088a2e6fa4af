"""The two values that cross the boundary of an engine: rows in, a prediction out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# One valid row as JSON brought it: a value a column, in the signature's order; None where an optional one is missing.
Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Rows:
    """Valid rows of one model, in the order of its signature.

    ``numbers`` is n x k float64: the number and boolean columns, NaN where an optional one is missing. ``objects`` is
    n x m: the string columns, None where missing. Either may have no columns.
    """

    numbers: NDArray[np.float64]
    objects: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.numbers)

    def chunks(self, size: int) -> Iterator[Rows]:
        """The same rows in pieces of at most ``size``."""
        for start in range(0, len(self), size):
            stop = start + size
            yield Rows(self.numbers[start:stop], self.objects[start:stop])

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows of ``parts``, in order."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.objects for part in parts]),
        )


class Prediction(NamedTuple):
    """What an engine answers for n rows: n labels and, where the model has probabilities, n confidences.

    A label is a JSON value, or a list of them where the model has several outputs; a confidence is the probability of
    that label, from 0 to 1, in the same shape. Where the model named its outputs, ``columns`` has their names.
    """

    labels: list[Any]
    confidences: list[Any] | None
    columns: tuple[str, ...] | None = None

    @property
    def first(self) -> tuple[Any, Any]:
        """The label and the confidence of the first row."""
        return self.labels[0], self.confidences[0] if self.confidences else None

    def part(self, start: int, stop: int) -> Prediction:
        """The prediction of the rows from ``start`` up to ``stop``."""
        confidences = self.confidences[start:stop] if self.confidences else None
        return Prediction(self.labels[start:stop], confidences, self.columns)

    @staticmethod
    def concatenate(parts: Sequence[Prediction]) -> Prediction:
        """The predictions of ``parts`` as one, in order."""
        if len(parts) == 1:
            return parts[0]
        labels = [label for part in parts for label in part.labels]
        if any(part.confidences is None for part in parts):
            return Prediction(labels, None, parts[0].columns)
        return Prediction(labels, [confidence for part in parts for confidence in part.confidences or ()])
