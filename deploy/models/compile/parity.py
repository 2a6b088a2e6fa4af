"""Whether a compiled model agrees with the one that it was made from, on which rows, and how closely."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.engines.sklearn import SklearnEngine
from server.inference.rows import Prediction, Rows

# Probabilities may differ by this much; a regressor's values by this much of their size.
TOLERANCE = 1e-6
# Rows of one call: what the probabilities of many classes take is bounded.
_CHUNK = 4096


class Compiled(Protocol):
    """An engine that tells all that it computes."""

    def predict(self, rows: Rows) -> Prediction:
        """As any engine."""
        ...

    def totals(self, rows: Rows) -> NDArray[np.float64]:
        """The probability of each class, n x classes; for a regressor, the value, n x 1."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """What a comparison found. ``ties`` are rows whose two most likely classes are as good as equally likely.

    Labels must be equal but for ties; ``largest_difference`` is that of any probability, or of a regressor's values
    relative to their size where that is above 1.
    """

    against: str
    rows: int
    labels_differ: int
    ties: int
    largest_difference: float

    @property
    def passed(self) -> bool:
        """Whether the compiled model may stand in for the other."""
        return self.rows > 0 and self.labels_differ == 0 and self.largest_difference <= TOLERANCE

    def __str__(self) -> str:
        labels = "equal labels" if self.labels_differ == 0 else f"{self.labels_differ} other labels"
        return f"{self.rows:,} rows ({self.against}): {labels}, values at most {self.largest_difference:.1e} apart"

    def to_json(self) -> dict[str, object]:
        """As plain values, for the model's own record."""
        return {**asdict(self), "tolerance": TOLERANCE, "passed": self.passed}


def compare(reference: SklearnEngine, compiled: Compiled, rows: Rows, against: str) -> Check:
    """Predict ``rows`` with both."""
    parts = [_compare(reference, compiled, chunk) for chunk in rows.chunks(_CHUNK)]
    return Check(
        against=against,
        rows=len(rows),
        labels_differ=sum(part[0] for part in parts),
        ties=sum(part[1] for part in parts),
        largest_difference=float(np.max([part[2] for part in parts], initial=0.0)),  # NaN, where there is one
    )


def _compare(reference: SklearnEngine, compiled: Compiled, rows: Rows) -> tuple[int, int, float]:
    expected, found = reference.totals(rows), compiled.totals(rows)
    if expected.shape[1] == 1:
        size = np.maximum(np.abs(expected), 1.0)
        return 0, 0, float((np.abs(found - expected) / size).max())
    top_two = np.sort(expected, axis=1)[:, -2:]
    tied = top_two[:, 1] - top_two[:, 0] <= TOLERANCE
    labels = zip(reference.predict(rows).labels, compiled.predict(rows).labels, strict=True)
    wrong = np.array([not _same(a, b) for a, b in labels])
    return int((wrong & ~tied).sum()), int(tied.sum()), float(np.abs(found - expected).max())


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
