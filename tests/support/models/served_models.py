"""Models as a worker serves them, with engines that tests pass in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.inference.model import Model
from server.inference.rows import NO_OPTIONS, Options, Prediction, Rows
from server.inference.signature import schema_from_signature

ROW = {"elevation": 2596, "slope": 3.5}
SCHEMA = schema_from_signature(
    [{"name": "elevation", "type": "long"}, {"name": "slope", "type": "double"}], {"elevation": [1859, 3858]}
)


class FakeEngine:
    """An engine that predicts with a function, by default the elevation in hundreds of metres."""

    name = "fake"
    uses_pandas = False

    def __init__(self, answer: Callable[[Rows], Prediction] | None = None) -> None:
        self._answer = answer

    def predict(self, rows: Rows, options: Options = NO_OPTIONS) -> Prediction:
        if self._answer is not None:
            return self._answer(rows)
        return Prediction([int(elevation // 100) for elevation in rows.numbers[:, 0]], [0.95] * len(rows))


def served_model(engine: Any, **changes: Any) -> Model:
    """Return version 7 of the model ``hills`` with an engine, the columns of SCHEMA and changed fields."""
    fields: dict[str, Any] = {
        "name": "hills",
        "registered_name": "hills",
        "version": "7",
        "uri": "models:/hills@champion",
        "digest": "d" * 64,
        "trained_on": "synthetic",
        "stale": None,
        "schema": SCHEMA,
        "engine": engine,
        "example": dict(ROW),
    }
    return Model(**fields | changes)
