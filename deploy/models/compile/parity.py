"""Comparison of a compiled model with the model that it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.engines.sklearn import SklearnEngine
from server.inference.rows import Prediction, Rows

# The largest allowed absolute difference of probabilities, and relative difference of a regressor's values.
TOLERANCE = 1e-6
# The limit bounds the memory for probabilities of many classes.
_ROWS_PER_CALL = 4096


class Compiled(Protocol):
    """An engine that also returns the numbers behind its predictions."""

    def predict(self, rows: Rows) -> Prediction:
        """Return the labels and their probabilities."""
        ...

    def outputs(self, rows: Rows) -> NDArray[np.float64]:
        """Return the probability of each class (n x classes) or, for a regressor, the value (n x 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a comparison on rows that ``rows_source`` describes.

    ``ties`` counts the rows whose two most likely classes are equally likely within the tolerance; ``labels_differ``
    counts different labels in the other rows. ``largest_difference`` is the largest difference of a probability, or of
    a regressor's value; relative to the value if that is above 1.
    """

    rows_source: str
    rows: int
    labels_differ: int
    ties: int
    largest_difference: float

    @property
    def passed(self) -> bool:
        """Whether the compiled model may replace the model."""
        return self.rows > 0 and self.labels_differ == 0 and self.largest_difference <= TOLERANCE

    def __str__(self) -> str:
        labels = "equal labels" if self.labels_differ == 0 else f"{self.labels_differ} different labels"
        return f"{self.rows:,} rows ({self.rows_source}): {labels}, values at most {self.largest_difference:.1e} apart"

    def to_json(self) -> dict[str, object]:
        """Return the check as plain JSON values, as they are recorded in the model."""
        fields = asdict(self)
        return {"against": fields.pop("rows_source"), **fields, "tolerance": TOLERANCE, "passed": self.passed}


def compare(reference: SklearnEngine, compiled: Compiled, rows: Rows, rows_source: str) -> Check:
    """Predict ``rows`` with both engines, and return how far their results differ."""
    chunks = [_compare(reference, compiled, chunk) for chunk in rows.chunks(_ROWS_PER_CALL)]
    return Check(
        rows_source=rows_source,
        rows=len(rows),
        labels_differ=sum(labels_differ for labels_differ, _, _ in chunks),
        ties=sum(ties for _, ties, _ in chunks),
        # np.max returns NaN if any value is NaN, which fails the check.
        largest_difference=float(np.max([difference for _, _, difference in chunks], initial=0.0)),
    )


def _compare(reference: SklearnEngine, compiled: Compiled, rows: Rows) -> tuple[int, int, float]:
    """Return the numbers of different labels and of ties, and the largest difference."""
    expected, actual = reference.outputs(rows), compiled.outputs(rows)
    if expected.shape[1] == 1:
        scale = np.maximum(np.abs(expected), 1.0)
        return 0, 0, float((np.abs(actual - expected) / scale).max())
    top_two = np.sort(expected, axis=1)[:, -2:]
    tied = top_two[:, 1] - top_two[:, 0] <= TOLERANCE
    labels = zip(reference.predict(rows).labels, compiled.predict(rows).labels, strict=True)
    differ = np.array([not _same_label(a, b) for a, b in labels])
    return int((differ & ~tied).sum()), int(tied.sum()), float(np.abs(actual - expected).max())


def _same_label(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
